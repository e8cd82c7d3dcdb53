"""Events as frozen dataclasses, and the base class of their listeners. No event holds a value.

Statement events are delivered during the statement, in its thread or task; leak events in a thread of their own. A
listener must be quick and must not call the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, TypeAlias

from prefiq_db.errors import ErrorKind
from prefiq_db.tags import NO_TAGS


@dataclass(frozen=True, slots=True)
class Origin:
    """The application's line where something began; never a line of prefiq_db or SQLAlchemy."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


#: A line of the application as it is noted: two references, which become an :class:`Origin` when it is read.
Line: TypeAlias = tuple[CodeType, int]


@dataclass(frozen=True, slots=True)
class StatementEvent:
    """The fields that all statement events share.

    Attributes:
        database: the database's name.
        statement: the SQL text with bind markers (its literals masked).
        parameters: each bind's type and length: ``{"sku": "<str:2>"}``; those of the first of many rows.
        batch_size: how many rows the statement is executed with; 1 for a single one.
        operation: ``SELECT``, ``INSERT`` ...; ``""`` if not known.
        summary: operations and tables: ``INSERT audit SELECT orders``.
        tables: the tables, each once.
        fingerprint: 16 hex digits that group statements which differ in values only.
        wait_seconds: how long the checkout of the connection took; 0 for all but the first statement on it.
        retry_number: 0 for the first attempt of the call or transaction.
        call_id: the call that sent it, as in :class:`CallStarted`; ``None`` through ``engine`` and ``session()``.
        transaction_id: the transaction that it runs in; ``None`` outside a transaction.
        origin: the application's line; ``None`` when it could not be found.
        tags: from ``using(tags=...)`` and ``override(tags=...)``.
        node: the name of the replica that it was sent to; ``""``: the primary, or the only server.
    """

    database: str
    statement: str
    parameters: Mapping[str, str]
    batch_size: int = 1
    operation: str = ""
    summary: str = ""
    tables: tuple[str, ...] = ()
    fingerprint: str = ""
    wait_seconds: float = 0.0
    retry_number: int = 0
    call_id: int | None = None
    transaction_id: int | None = None
    origin: Origin | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)
    node: str = ""


# An event is made for each statement, and its origin is read of few: the slot itself, ``_origin``, may hold a Line.
_statement_event: Any = StatementEvent
_origin_slot: Any = _statement_event.origin


def _read_origin(event: StatementEvent) -> Origin | None:
    kept: Origin | Line | None = _origin_slot.__get__(event)
    if not isinstance(kept, tuple):
        return kept
    code, number = kept
    origin = Origin(code.co_filename, number, code.co_qualname)
    _origin_slot.__set__(event, origin)
    return origin


_statement_event._origin = _origin_slot
_statement_event.origin = property(_read_origin, _origin_slot.__set__)


@dataclass(frozen=True, slots=True)
class StatementStarted(StatementEvent):
    """A statement is about to be sent."""


@dataclass(frozen=True, slots=True)
class StatementFinished(StatementEvent):
    """A statement succeeded.

    Attributes:
        duration_seconds: from sending to the reply, without the time to fetch rows later.
        rows: the driver's row count, -1 if unknown.
    """

    duration_seconds: float = 0.0
    rows: int = -1


@dataclass(frozen=True, slots=True)
class StatementFailed(StatementEvent):
    """A statement failed; ``code`` is the server's error code."""

    duration_seconds: float = 0.0
    kind: ErrorKind = ErrorKind.UNKNOWN
    code: str | int | None = None


@dataclass(frozen=True, slots=True)
class StreamFinished(StatementEvent):
    """A stream ended, in whatever way; its statement was reported before, when its cursor was opened.

    Attributes:
        duration_seconds: from opening to closing, the consumer's own work included.
        first_row_seconds: from sending the statement to the first batch of rows.
        slowest_seconds: the longest wait for one batch.
        rows: how many rows were read.
        batches: in how many batches.
        complete: all rows were read; false if the stream was left early.
        kind: why it failed; ``None`` when it didn't. The consumer's own error doesn't count.
    """

    duration_seconds: float = 0.0
    first_row_seconds: float = 0.0
    slowest_seconds: float = 0.0
    rows: int = 0
    batches: int = 0
    complete: bool = False
    kind: ErrorKind | None = None


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call of a verb begins: one event for all its attempts.

    Attributes:
        database: the database's name.
        call_id: the same in :class:`CallFinished`.
        verb: ``fetch_all``, ``execute``, ``execute_many`` ...
        origin: the application's line.
        tags: the request's tags.
    """

    database: str
    call_id: int
    verb: str
    origin: Origin | None = None
    tags: Mapping[str, str] = field(default_factory=lambda: NO_TAGS)


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call ended.

    Attributes:
        duration_seconds: waits for a connection and between attempts included.
        attempts: how many tries it took.
        kind: why it failed; ``None`` when it succeeded.
        code: the server's code.
    """

    database: str
    call_id: int
    verb: str
    duration_seconds: float
    attempts: int = 1
    kind: ErrorKind | None = None
    code: str | int | None = None


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt failed and another one follows after ``wait_seconds``."""

    database: str | None
    attempt: int
    wait_seconds: float
    kind: ErrorKind | None
    code: str | int | None


@dataclass(frozen=True, slots=True)
class TransactionFinished:
    """A transaction ended.

    Attributes:
        transaction_id: as in the events of its statements.
        outcome: ``committed``, ``not committed`` or ``unknown``.
        duration_seconds: from BEGIN to the end.
        origin: where the application opened it.
    """

    database: str
    transaction_id: int
    outcome: str
    duration_seconds: float
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class OutcomeResolved:
    """The outcome of a transaction was looked up, because the reply to COMMIT was lost.

    Attributes:
        transaction_id: as in the events of its statements; ``None`` when it was looked up by token.
        outcome: ``committed``, ``not committed`` or ``unknown``.
        claims: how often the database was asked.
        duration_seconds: from the first query to the answer.
    """

    database: str
    transaction_id: int | None
    outcome: str
    claims: int
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """The pool opened a connection; ``duration_seconds`` includes login and session set-up."""

    database: str
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The pool discarded a connection.

    Attributes:
        reason: ``age``, ``dead``, ``no answer``, ``invalidated``, ``session changed``,
            ``transaction left open`` or ``server demoted``.
    """

    database: str
    reason: str


@dataclass(frozen=True, slots=True)
class ConnectionCheckedOut:
    """A connection was checked out; ``wait_seconds`` is how long that took, opening a new one included."""

    database: str
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionCheckedIn:
    """A connection was returned to the pool after ``use_seconds``."""

    database: str
    use_seconds: float


@dataclass(frozen=True, slots=True)
class PoolTimedOut:
    """No connection became free in time."""

    database: str
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionLeaked:
    """A connection was checked out for longer than ``leak_after_seconds``, or garbage-collected without being returned.

    Attributes:
        age_seconds: how long it has been checked out.
        origin: the application's line that took it.
        worker: the task or thread that took it.
        summary: its last statement.
        collected: it was garbage-collected unclosed.
    """

    database: str
    age_seconds: float
    origin: Origin | None
    worker: str
    summary: str
    collected: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionUnleaked:
    """A connection that was reported as leaked was returned after all."""

    database: str
    age_seconds: float
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A health check's result differs from the one before."""

    database: str
    healthy: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaChanged:
    """A replica left the rotation, or came back. There is one event for each change, and none while nothing changes.

    Attributes:
        database: the name of the database that it is a replica of.
        node: its name in the settings; ``replica-1`` and so on, if it has none there.
        in_rotation: whether it gets reads now.
        reason: why it gets none: ``behind``, ``not following``, ``promoted``, or the kind of an error; ``""``: it does.
            docs/machines.md says what to do for each.
        role: ``replica``, ``primary`` once it was found promoted, or ``unknown`` (MariaDB tells only a user with
            ``SLAVE MONITOR``).
        lag_seconds: how many seconds it was behind when it was last asked; ``None``: unknown, or it doesn't answer.
    """

    database: str
    node: str
    in_rotation: bool
    reason: str
    role: str
    lag_seconds: float | None


class Listener:
    """Base of listeners: override what you need. A listener that raises is logged once and never breaks a query."""

    def statement_started(self, event: StatementStarted) -> None:
        """A statement is about to be sent."""

    def statement_finished(self, event: StatementFinished) -> None:
        """A statement succeeded."""

    def statement_failed(self, event: StatementFailed) -> None:
        """A statement failed."""

    def stream_finished(self, event: StreamFinished) -> None:
        """A stream ended."""

    def call_started(self, event: CallStarted) -> None:
        """A verb begins."""

    def call_finished(self, event: CallFinished) -> None:
        """A verb ended, with all its attempts."""

    def attempt_failed(self, event: AttemptFailed) -> None:
        """An attempt failed and another one follows."""

    def transaction_finished(self, event: TransactionFinished) -> None:
        """A transaction was committed or rolled back, or its outcome is unknown."""

    def outcome_resolved(self, event: OutcomeResolved) -> None:
        """The outcome of a transaction was looked up, because the reply to COMMIT was lost."""

    def connection_opened(self, event: ConnectionOpened) -> None:
        """The pool opened a connection."""

    def connection_lost(self, event: ConnectionLost) -> None:
        """The pool discarded a connection."""

    def connection_checked_out(self, event: ConnectionCheckedOut) -> None:
        """A connection was checked out."""

    def connection_checked_in(self, event: ConnectionCheckedIn) -> None:
        """A connection was returned to the pool."""

    def pool_timed_out(self, event: PoolTimedOut) -> None:
        """No connection became free in time."""

    def connection_leaked(self, event: ConnectionLeaked) -> None:
        """A connection was checked out for too long, or garbage-collected."""

    def connection_unleaked(self, event: ConnectionUnleaked) -> None:
        """A leaked connection was returned after all."""

    def replica_changed(self, event: ReplicaChanged) -> None:
        """A replica left the rotation, or came back."""

    def health_changed(self, event: HealthChanged) -> None:
        """A health check's result differs from the one before."""
