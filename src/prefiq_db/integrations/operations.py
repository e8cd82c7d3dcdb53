"""Combine the events of one logical call into one operation, however many attempts it took.

A verb's statements carry its ``call_id``; statements through ``engine`` and ``session()`` have none, and each of them
is an operation. An operation is reported once, at its end, when everything about it is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from prefiq_db.errors import ErrorKind
from prefiq_db.events import (
    CallFinished,
    CallStarted,
    Listener,
    Origin,
    StatementEvent,
    StatementFailed,
    StatementFinished,
    StreamFinished,
)

# Operations whose row count is the number of rows returned; for the others it is the number of rows changed.
_READING: Final = frozenset({"SELECT", "SHOW", "EXPLAIN", "PRAGMA", "find", "aggregate"})
# MongoDB's further commands of one operation: more of its rows, and the end of its cursor.
_MORE_ROWS, _NO_ROWS = "getMore", "killCursors"
_NANOSECONDS: Final = 1_000_000_000


class Operation:
    """A call, or a statement without one.

    Attributes:
        verb: ``fetch_all``, ``execute`` ...; ``""`` for a statement without a call.
        context: what the listener's ``capture`` returned when it began.
        started_ns, ended_ns: nanoseconds since the epoch.
        duration_seconds: of the call; waits for a connection and between attempts included.
        statement: its first statement; ``None`` if it failed before it sent one.
        rows: how many rows it returned; -1 if that is unknown, or it returns none.
        retries: attempts beyond the first, of the call or of the transaction around it.
        kind, code: why it failed; ``None`` when it succeeded.
        origin: the application's line.
    """

    __slots__ = (
        "code", "context", "duration_seconds", "ended_ns", "kind", "origin", "retries", "rows", "started_ns",
        "statement", "verb",
    )  # fmt: skip

    def __init__(self, verb: str, started_ns: int, origin: Origin | None, context: Any) -> None:
        self.verb = verb
        self.started_ns = started_ns
        self.origin = origin
        self.context = context
        self.ended_ns = started_ns
        self.duration_seconds = 0.0
        self.statement: StatementEvent | None = None
        self.rows = -1
        self.retries = 0
        self.kind: ErrorKind | None = None
        self.code: str | int | None = None

    def sent(self, event: StatementEvent) -> None:
        """Record that one of its statements was sent, or sent again."""
        if self.statement is None:
            self.statement = event
        self.retries = max(self.retries, event.retry_number)

    def ended(self, duration_seconds: float, kind: ErrorKind | None, code: str | int | None) -> None:
        self.duration_seconds = duration_seconds
        self.ended_ns = self.started_ns + round(duration_seconds * _NANOSECONDS)
        self.kind = kind
        self.code = code


class OperationListener(Listener):
    """Calls ``ended`` with every operation of a database, and ``capture`` when one begins."""

    def __init__(self, ended: Callable[[Operation], None], capture: Callable[[], Any]) -> None:
        self._ended = ended
        self._capture = capture
        self._calls: dict[int, Operation] = {}

    def call_started(self, event: CallStarted) -> None:
        self._calls[event.call_id] = Operation(event.verb, time.time_ns(), event.origin, self._capture())

    def statement_finished(self, event: StatementFinished) -> None:
        operation = self._operation(event)
        if event.operation == _MORE_ROWS:
            operation.rows = max(0, operation.rows) + max(0, event.rows)
        elif event.operation != _NO_ROWS:
            operation.rows = event.rows if event.operation in _READING else -1
        if not operation.verb:
            operation.ended(event.duration_seconds, None, None)
            self._ended(operation)

    def statement_failed(self, event: StatementFailed) -> None:
        operation = self._operation(event)
        operation.rows = -1
        if not operation.verb:
            operation.ended(event.duration_seconds, event.kind, event.code)
            self._ended(operation)

    def stream_finished(self, event: StreamFinished) -> None:
        operation = None if event.call_id is None else self._calls.get(event.call_id)
        if operation is not None:
            operation.rows = event.rows

    def call_finished(self, event: CallFinished) -> None:
        operation = self._calls.pop(event.call_id, None)
        if operation is None or (operation.statement is None and event.kind is None):
            return  # it began before we listened, or sent nothing
        operation.retries = max(operation.retries, event.attempts - 1)
        operation.ended(event.duration_seconds, event.kind, event.code)
        self._ended(operation)

    def _operation(self, event: StatementFinished | StatementFailed) -> Operation:
        """Return the call that *event* belongs to, or an operation of this statement alone."""
        operation = None if event.call_id is None else self._calls.get(event.call_id)
        if operation is None:
            started_ns = time.time_ns() - round(event.duration_seconds * _NANOSECONDS)
            operation = Operation("", started_ns, event.origin, self._capture())
        operation.sent(event)
        return operation
