"""What all our dialects share: one connection pool for one-shots and transactions alike."""

from __future__ import annotations

from typing import Any, ClassVar

from prefiq_db.dialects.opening import ConnectingDialect
from prefiq_db.dialects.sending import StatementDialect
from prefiq_db.errors import ErrorKind


class PrefiqDialect(StatementDialect, ConnectingDialect):
    """Mixed in before a SQLAlchemy dialect."""

    #: what makes a server tell its plan instead of running the statement
    explain_words: ClassVar[str] = "EXPLAIN"

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> type:
        """Return this class: each world has its own, and SQLAlchemy must not replace it by the driver's."""
        return cls

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
