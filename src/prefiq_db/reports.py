"""Results, counters and health reports as plain dataclasses; only ``rows`` of a result hold values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from prefiq_db.errors import ErrorKind
from prefiq_db.tags import NO_TAGS


class Outcome(StrEnum):
    """The outcome of a transaction; ``active`` until it ends."""

    ACTIVE = "active"
    COMMITTED = "committed"
    NOT_COMMITTED = "not committed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ExecuteResult:
    """The result of ``execute()``.

    Attributes:
        rowcount: rows that an INSERT, UPDATE, DELETE, MERGE or REPLACE inserted, matched or deleted; ``None`` if
            that is unknown, and for every other statement.
        inserted_primary_key: the new row's primary key, for a Core ``insert()`` of one row that was inserted; else
            ``None``.
        rows: the rows of RETURNING or SELECT, or the first result set of a CALL.
        other_rows: the further result sets of a CALL on MariaDB, each a sequence of rows.
    """

    rowcount: int | None
    inserted_primary_key: tuple[Any, ...] | None = None
    rows: Sequence[Any] = ()
    other_rows: Sequence[Sequence[Any]] = ()


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The result of ``bulk_insert()``.

    Attributes:
        row_count: rows that were given.
        inserted: rows that are new in the table.
        updated: rows that were there, with ``on_conflict="update"``; ``None`` if the database can't tell.
        ignored: rows that were left out, with ``on_conflict="ignore"``; ``None`` if the database can't tell.
        seconds: how long it took, the waiting for the given rows included.
    """

    row_count: int
    inserted: int | None
    updated: int | None
    ignored: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """The result of ``upsert()``.

    Attributes:
        row_count: rows that were given.
        inserted: rows that are new in the table; ``None`` if the database can't tell.
        updated: rows that were there; ``None`` if the database can't tell.
        rows: the columns of ``returning``, in the order of the given rows.
    """

    row_count: int
    inserted: int | None
    updated: int | None
    rows: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class HistogramStats:
    """A histogram of durations.

    Attributes:
        bounds: upper bounds of the buckets in seconds, inclusive; the last bucket has none.
        counts: how many durations fell into each; one more than there are bounds.
        total_seconds: their sum.
        max_seconds: the longest.
    """

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = (0,)
    total_seconds: float = 0.0
    max_seconds: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean_seconds(self) -> float:
        """The mean duration; 0 when there were none."""
        return self.total_seconds / self.count if self.count else 0.0

    def quantile_seconds(self, share: float) -> float:
        """Return the quantile of *share* (0.95, say), as the upper bound of its bucket."""
        wanted, seen = share * self.count, 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            seen += count
            if count and seen >= wanted:
                return min(bound, self.max_seconds)
        return self.max_seconds


@dataclass(frozen=True, slots=True)
class Holder:
    """A checked-out connection: who holds it, and since when.

    Attributes:
        database: the database's name.
        age_seconds: how long ago it was checked out.
        worker: the task or thread that took it.
        origin: the application's line that took it; ``None`` when it could not be found.
        summary: its last statement's operations and tables.
        leaked: it has been reported as a leak.
        tags: those of its last call: the request's id and route, say.
    """

    database: str
    age_seconds: float
    worker: str
    origin: str | None
    summary: str
    leaked: bool = False
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)


@dataclass(frozen=True, slots=True)
class StatementStats:
    """Figures of one kind of statement, like ``pg_stat_statements``, but for this process and on every database.

    Attributes:
        fingerprint: 16 hex digits, the same for statements that differ only in values; ``other`` for the rest together.
        summary: operations and tables.
        statement: the text of one of them, its literals masked.
        calls, errors, retries, rows: how many of each; rows as far as the driver reports them.
        total_seconds, mean_seconds, p95_seconds, max_seconds: how long they took.
        origin: a line of the application that sent one (sampled, not recorded every time).
    """

    fingerprint: str
    summary: str
    statement: str
    calls: int
    errors: int
    retries: int
    rows: int
    total_seconds: float
    mean_seconds: float
    p95_seconds: float
    max_seconds: float
    origin: str | None


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The current state of the pool, and its counters since the database object was created.

    Attributes:
        size: connections that the pool keeps (``pool_size``).
        max_overflow: how many more it may open for a while.
        checked_out: connections in use.
        idle: connections waiting in the pool.
        pending: callers waiting for a connection.
        timeout_count: callers whose wait timed out.
        opened_count: connections opened.
        lost: connections discarded, by reason: ``age``, ``dead``, ``no answer``, ``invalidated``, ``session changed``,
            ``transaction left open`` or ``server demoted``.
        wait: how long callers waited for a connection.
        use: how long connections were checked out.
        create: how long opening one took.
    """

    size: int
    max_overflow: int
    checked_out: int
    idle: int
    pending: int = 0
    timeout_count: int = 0
    opened_count: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    wait: HistogramStats = HistogramStats()
    use: HistogramStats = HistogramStats()
    create: HistogramStats = HistogramStats()


@dataclass(frozen=True, slots=True)
class NodeStats:
    """One replica, as far as this process knows it: nobody is asked.

    Attributes:
        name: its name in the settings; ``replica-1`` and so on, if it has none there.
        role: ``replica``, ``primary`` once it was found promoted, or ``unknown`` (MariaDB tells only a user with
            ``SLAVE MONITOR``).
        in_rotation: whether it gets reads.
        reason: why it gets none: ``behind``, ``not following``, ``promoted``, or the kind of an error; ``""``: it does.
        lag_seconds: how many seconds it was behind when it was last asked; ``None``: unknown, or it doesn't answer.
        pool: the counters of its own pool.
    """

    name: str
    role: str
    in_rotation: bool
    reason: str
    lag_seconds: float | None
    pool: PoolStats


@dataclass(frozen=True, slots=True)
class DatabaseStats:
    """The counters of one database since its object was created.

    Attributes:
        database: its name.
        pool: the pool.
        statement_count: statements sent, those through ``engine`` and ``session()`` included.
        error_count: statements that failed.
        retry_count: attempts beyond the first.
        retry_refused_count: retries not made because the retry budget was used up.
        hook_error_count: listeners that raised.
        leak_count: connections reported as leaked.
        slow_count: statements above ``slow_query_seconds``.
        errors: failed statements by kind.
        retries: attempts beyond the first, by the kind of error that caused them.
        durations: of statements by summary (the most frequent 200; the others together as ``other``).
        statements: the statements with the most total time, the worst first.
        holders: the connections checked out now, the oldest first.
        unknown_outcome_count: transactions and single writes whose outcome stayed unknown: no reply came.
        replicas: the replicas, in the order of the settings.
        replica_fallback_count: reads for a replica that the primary answered, or nobody.
        tenant_pools: the pools of tenants' own databases, by their names; their statements and leaks are counted above.
    """

    database: str
    pool: PoolStats
    statement_count: int = 0
    error_count: int = 0
    retry_count: int = 0
    retry_refused_count: int = 0
    hook_error_count: int = 0
    leak_count: int = 0
    slow_count: int = 0
    errors: Mapping[ErrorKind, int] = field(default_factory=dict)
    retries: Mapping[ErrorKind, int] = field(default_factory=dict)
    durations: Mapping[str, HistogramStats] = field(default_factory=dict)
    statements: tuple[StatementStats, ...] = ()
    holders: tuple[Holder, ...] = ()
    unknown_outcome_count: int = 0
    tenant_pools: Mapping[str, PoolStats] = field(default_factory=dict)
    replicas: tuple[NodeStats, ...] = ()
    replica_fallback_count: int = 0


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Whether a database is healthy.

    Attributes:
        database: its name.
        healthy: True when a round trip succeeded and the server is ready and, unless used read-only, accepts writes.
        reason: why it isn't, without host, user or values; empty when healthy.
        kind: the error's kind; ``None`` when healthy.
        latency_seconds: how long the round trip took, checkout included; ``None`` when there was no reply.
        details: further facts (engine, mode, ``state`` of a Galera node), never secrets.
    """

    database: str
    healthy: bool
    reason: str = ""
    kind: ErrorKind | None = None
    latency_seconds: float | None = None
    details: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.healthy
