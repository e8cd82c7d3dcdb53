"""What prefiq_db answers with: results, counters and health, as plain dataclasses without values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefiq_db.errors import ErrorKind


@dataclass(frozen=True, slots=True)
class ExecuteResult:
    """What a statement did.

    Attributes:
        rowcount: rows the statement matched or changed; -1 where the driver can't tell.
        inserted_primary_key: the new row's primary key, for a Core ``insert()`` of one row; else ``None``.
    """

    rowcount: int
    inserted_primary_key: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The pool at one moment.

    Attributes:
        size: connections that the pool keeps (``pool_size``).
        max_overflow: how many more it may open for a while.
        checked_out: connections in use.
        idle: connections waiting in the pool.
    """

    size: int
    max_overflow: int
    checked_out: int
    idle: int


@dataclass(frozen=True, slots=True)
class DatabaseStats:
    """Counters of one database since it was made.

    Attributes:
        database: its name.
        pool: the pool now.
        statements: statements sent, by all roads.
        errors: statements that failed.
        retries: attempts beyond the first.
        hook_errors: listeners that raised.
    """

    database: str
    pool: PoolStats
    statements: int = 0
    errors: int = 0
    retries: int = 0
    hook_errors: int = 0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Whether a database is well.

    Attributes:
        database: its name.
        healthy: True when a round trip succeeded.
        reason: why not, in words without host, user or value; empty when healthy.
        kind: the error's kind; ``None`` when healthy.
        latency_seconds: how long the round trip took, checkout included; ``None`` when it failed.
        details: further facts (engine, mode), never secrets.
    """

    database: str
    healthy: bool
    reason: str = ""
    kind: ErrorKind | None = None
    latency_seconds: float | None = None
    details: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.healthy
