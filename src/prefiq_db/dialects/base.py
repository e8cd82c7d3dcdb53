"""Base of all our dialects: one connection pool serves one-shots and transactions alike."""

from __future__ import annotations

from typing import Any, ClassVar

from prefiq_db.dialects.bulk import BulkDialect
from prefiq_db.dialects.burst_control import BurstDialect
from prefiq_db.dialects.opening import ConnectingDialect
from prefiq_db.dialects.sending import StatementDialect
from prefiq_db.dialects.staying import StayingDialect
from prefiq_db.dialects.streams import StreamDialect
from prefiq_db.dialects.upsert_sql import UpsertSql
from prefiq_db.errors import ErrorKind


class PrefiqDialect(StatementDialect, BurstDialect, StreamDialect, ConnectingDialect, StayingDialect, BulkDialect):
    """Mixed in before a SQLAlchemy dialect."""

    #: the prefix that makes a server return a statement's plan instead of running it
    explain_words: ClassVar[str] = "EXPLAIN"
    #: how this database words an upsert
    upserts: ClassVar[UpsertSql]

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> type:
        """Return this class: sync and async have their own, and SQLAlchemy must not substitute the driver's."""
        return cls

    #: the query of a health check; ailment_of() reads its answer
    health_sql: ClassVar[str] = "SELECT 1"

    def ailment_of(self, row: Any) -> ErrorKind | None:
        """Return why the server is unfit for work, from its answer *row* to ``health_sql``; ``None`` if it is fit."""
        return None

    def read_state(self, row: Any) -> str:
        """Return the state of a cluster's node in its own words, from that answer; empty for any other server."""
        return ""

    def zone_lost(self, first: Any, second: Any) -> str | None:
        """Return the server's own time zone if it isn't UTC and the pooler doesn't keep ours per client; else ``None``.

        For a pooler that lends its sessions to one client after another: *first* and *second* are two of its clients.
        """
        return None
