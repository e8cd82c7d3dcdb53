"""The rows of one statement in batches, through SQLAlchemy's result over a cursor at the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from sqlalchemy import Connection, CursorResult, Executable, UpdateBase
from sqlalchemy.engine.cursor import CursorFetchStrategy

from prefiq_db.call import Call, Shape
from prefiq_db.deadline import Deadline
from prefiq_db.dialects.observers import StreamNote
from prefiq_db.dialects.session import CheckoutState, SessionState
from prefiq_db.dialects.streams import row_maker
from prefiq_db.errors import ErrorKind, StatementRefusedError, UsageError
from prefiq_db.execution.standard import StandardRoad
from prefiq_db.execution.statement_facts import facts_of

# What a cursor at the server can be opened for. "" is a Core construct, which isn't compiled yet.
_READING: Final = frozenset({"", "select", "values", "table", "with"})


class _InBatches(CursorFetchStrategy):
    """Fetches what is asked for; SQLAlchemy's own for such a cursor would first fetch a single row."""

    __slots__ = ()

    def handle_exception(self, result: CursorResult[Any], dbapi_cursor: Any, err: BaseException) -> NoReturn:
        if isinstance(err, Exception):
            result.context.dialect.note_failed_fetch(err, result.context)  # type: ignore[attr-defined]  # it is ours
        super().handle_exception(result, dbapi_cursor, err)


_IN_BATCHES: Final = _InBatches()


def check_batch_size(size: Any) -> int:
    """Return *size*, or raise :class:`UsageError` unless it is a positive whole number."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError("batch_size: expected a whole number of rows, at least 1")
    return size


def streamed(statement: Executable, dialect: str) -> Executable:
    """Return *statement* as one whose rows stay at the server until they are fetched.

    Raises:
        StatementRefusedError: if it is not a query.
    """
    if isinstance(statement, UpdateBase) or facts_of(statement, dialect).verb not in _READING:
        raise StatementRefusedError(
            "stream: expected a query (SELECT, VALUES, TABLE or WITH ... SELECT), which is all that a cursor at the "
            "server can be opened for; run other statements with fetch_all or execute"
        )
    return statement.execution_options(stream_results=True)


class BatchReader:
    """Reads the rows of one statement; every method but the first runs in the transaction in which it was begun.

    Attributes:
        size: how many rows a batch has; only the last one may have fewer.
        shape: fetches the first batch.
        note: records the end; ``None`` before the statement was sent.
        rows, batches: what was read so far.
        first_row_seconds: from sending the statement to the first batch; ``None`` before that.
        slowest_seconds: the longest wait for a batch.
        is_complete: whether all rows were read.
        make_row: makes a row of what a batch holds; ``None``: it holds rows.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.shape = Shape(self._fetch_first)
        self._road: StandardRoad | None = None
        self._connection: Connection | None = None
        self._result: CursorResult[Any] | None = None
        self._limits: tuple[float, Deadline | None] = (0.0, None)
        self.note: StreamNote | None = None
        self._reset()

    def _reset(self) -> None:
        self.rows = self.batches = 0
        self.first_row_seconds: float | None = None
        self.slowest_seconds = 0.0
        self.is_complete = False
        self.make_row: Callable[[Any], Any] | None = None

    def told(self, duration_seconds: float, kind: ErrorKind | None) -> None:
        """Report the end of the stream, once."""
        note, self.note = self.note, None
        if note is not None:
            note.ended(
                duration_seconds=duration_seconds,
                first_row_seconds=self.first_row_seconds or 0.0,
                slowest_seconds=self.slowest_seconds,
                rows=self.rows,
                batches=self.batches,
                complete=self.is_complete,
                kind=kind,
            )

    # --- read ------------------------------------------------------------------------------------

    def begin(self, road: StandardRoad) -> Callable[..., list[Any]]:
        """Return a function for a block's ``use()`` that sends the statement and returns the first batch."""
        self._road, self.note = road, None
        self._reset()
        return self._begin

    def _begin(self, connection: Connection, call: Call, seconds: float, deadline: Deadline | None) -> list[Any]:
        road = self._road
        assert road is not None
        self._connection, self._limits = connection, (seconds, deadline)
        state = road.state(connection)
        started = time.perf_counter()

        def send() -> CursorResult[Any]:
            state.statement.call = call
            with _fetching_in_batches(state.checkout):
                return connection.execute(call.statement, call.params)

        def go() -> list[Any]:
            with _fetching(state):
                self._result = result = road.dialect.open_stream(connection, send, seconds, deadline)
                self.make_row = row_maker(result) if result.returns_rows else None
                if road.dialect.observer is not None:
                    self.note = road.dialect.observer.stream_opened(result.context, state)
                rows: list[Any] = call.shape.fetch(result)
                return rows

        return self._counted(road.crossed(connection, go), started)

    def _fetch_first(self, result: CursorResult[Any]) -> Sequence[Any]:
        return self._fetch(*self._limits)

    def next(self, connection: Connection, call: Call, seconds: float, deadline: Deadline | None) -> list[Any]:
        """Return the next batch."""
        road = self._road
        assert road is not None
        started = time.perf_counter()

        def go() -> Sequence[Any]:
            with _fetching(road.state(connection)):
                return self._fetch(seconds, deadline)

        return self._counted(road.crossed(connection, go), started)

    def _fetch(self, seconds: float, deadline: Deadline | None) -> Sequence[Any]:
        assert self._road is not None
        return self._road.dialect.fetch_batch(self._connection, self._result, self.size, seconds, deadline)

    def _counted(self, rows: Sequence[Any], started: float) -> list[Any]:
        waited = time.perf_counter() - started
        if self.first_row_seconds is None:
            self.first_row_seconds = waited
        self.slowest_seconds = max(self.slowest_seconds, waited)
        self.rows += len(rows)
        self.batches += bool(rows)
        self.is_complete = len(rows) < self.size
        return rows if isinstance(rows, list) else list(rows)

    # --- end -------------------------------------------------------------------------------------

    def close(self, seconds: float, *, is_last: bool) -> None:
        """Close the cursor; *is_last* if the transaction is rolled back next."""
        connection, result, road = self._connection, self._result, self._road
        self._connection = self._result = None
        if connection is None or result is None or road is None or connection.closed or connection.invalidated:
            return
        road.border.cross(lambda: road.dialect.close_stream(connection, result, seconds, is_last=is_last))


@contextmanager
def _fetching(state: SessionState) -> Iterator[None]:
    """Note that the server works for us: a stream that is read is no leak, however long it takes."""
    state.statement.sent_at = time.perf_counter()
    try:
        yield
    finally:
        state.statement.sent_at = 0.0
        state.checkout.excused_at = time.perf_counter()


@contextmanager
def _fetching_in_batches(checkout: CheckoutState) -> Iterator[None]:
    """Choose how SQLAlchemy fetches from the statement that is sent in the block."""
    guard = checkout.guard

    def choose(statement: str, context: Any) -> None:
        if guard is not None:
            guard(statement, context)
        context.cursor_fetch_strategy = _IN_BATCHES

    checkout.guard = choose
    try:
        yield
    finally:
        checkout.guard = guard
