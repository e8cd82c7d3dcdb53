"""Two PostgreSQL servers for failover tests: a primary, and a standby that has everything it confirmed."""

from __future__ import annotations

from collections.abc import Mapping

from prefiq_db.testing.postgresql_cluster import PostgresCluster
from prefiq_db.testing.postgresql_server import PostgresServer


class PostgresPair(PostgresCluster):
    """A private primary and its standby: ``with PostgresPair() as pair: Database(pair.url(pair.create_database()))``.

    It is a :class:`PostgresCluster` of one standby: the primary confirms a COMMIT when the standby has applied it.

    Args:
        durable: as in :class:`PostgresServer`, for both.
        synchronous: ``False`` lets the primary confirm without the standby, as most servers do; then a failover may
            lose what was confirmed.
        settings: further server settings, for both.

    Raises:
        ServerUnavailableError: if there are no programs; the message says what to install.
    """

    def __init__(
        self, *, durable: bool = False, synchronous: bool = True, settings: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(replicas=1, durable=durable, synchronous=synchronous, settings=settings)

    @property
    def standby(self) -> PostgresServer | None:
        """The server that follows the primary; ``None`` after :meth:`promote`, until the old primary rejoined."""
        return next(iter(self.replicas), None)
