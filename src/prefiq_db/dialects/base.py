"""What all our dialects share: one connection pool for one-shots and transactions alike."""

from __future__ import annotations

from typing import Any, ClassVar

from prefiq_db.dialects.opening import ConnectingDialect
from prefiq_db.dialects.sending import StatementDialect
from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.errors import ErrorKind
from prefiq_db.translation.translate import class_by_code


class PrefiqDialect(StatementDialect, ConnectingDialect):
    """Mixed in before a SQLAlchemy dialect."""

    #: what makes a server tell its plan instead of running the statement
    explain_words: ClassVar[str] = "EXPLAIN"

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> type:
        """Return this class: each world has its own, and SQLAlchemy must not replace it by the driver's."""
        return cls

    # --- liveness --------------------------------------------------------------------------------

    def socket_of(self, dbapi_connection: Any) -> int | None:
        """Return the file descriptor of an idle connection, ``-1`` when it is known to be closed, ``None`` if n/a."""
        return None

    #: what a health check asks, and ailment_of understands the answer to
    health_sql: ClassVar[str] = "SELECT 1"

    def ailment_of(self, row: Any) -> ErrorKind | None:
        """Return why the server that answered ``health_sql`` with *row* is no good for work; ``None`` when it is."""
        return None

    def zone_lost(self, first: Any, second: Any) -> str | None:
        """Return the server's own time zone if that may become a session's, and ours is forgotten; else ``None``.

        Of a pooler that lends its sessions to one client after another: *first* and *second* are two of its clients.
        """
        return None

    # --- disconnects -----------------------------------------------------------------------------

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        if isinstance(e, DeadlinePassed) or super().is_disconnect(e, connection, cursor):  # type: ignore[misc]
            return True
        found = class_by_code(e, self.label)
        if found is None:  # not the server's word, so the connection is asked
            raw = getattr(connection, "dbapi_connection", connection)
            return raw is not None and self.socket_of(raw) == -1
        if found.kind is ErrorKind.READ_ONLY:
            # Where another connection may find a writer, this one and those made before it are no good. But what our
            # own READ ONLY refused, every server refuses.
            return found.transient and not self.began_read_only(connection)
        return found.connection_lost

    def began_read_only(self, proxied: Any) -> bool:
        """Return whether a write on SQLAlchemy's *proxied* connection is refused by us, and no other server is better.

        The settings say ``read_only``, or the transaction that is open on it is a READ ONLY of ours.
        """
        if self.limits.read_only:
            return True
        if proxied is None:
            return False
        transaction = self.session_of(proxied).transaction
        return transaction.began and transaction.terms.read_only
