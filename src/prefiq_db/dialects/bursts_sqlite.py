"""A burst on SQLite: in the async world each call of the driver waits for its thread, so all of them go there at once.

In the sync world there is nothing to save, and a batch is a plain transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteExecutionContext_aiosqlite

from prefiq_db.bridge import await_, to_its_end
from prefiq_db.dialects.burst_control import BEGIN, Burst, BurstDialect, CannotTravelError, Pending
from prefiq_db.dialects.session import TransactionState
from prefiq_db.dialects.sqlite_connection import SqliteConnection

# How long a cancelled caller waits for the driver's thread: SQLite looks at our clock every few thousand steps.
_STOP_SECONDS = 2.0


class BufferedCursor:
    """A cursor that holds a reply; to SQLAlchemy it looks like a driver's."""

    arraysize = 1

    def __init__(self) -> None:
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._rows: deque[Any] = deque()

    def fill(self, executed: sqlite3.Cursor) -> None:
        """Take what *executed* has done; runs in the driver's thread."""
        self.description = executed.description
        if executed.description is not None:
            self._rows.extend(executed.fetchall())
        self.rowcount, self.lastrowid = executed.rowcount, executed.lastrowid

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        count = self.arraysize if size is None else size
        return [self._rows.popleft() for _ in range(min(count, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __iter__(self) -> Iterator[Any]:
        while self._rows:
            yield self._rows.popleft()

    def close(self) -> None:
        self._rows.clear()


class ContextOfBursts(SQLiteExecutionContext_aiosqlite):
    """SQLAlchemy's execution; making a cursor of the driver's would wait for its thread."""

    def create_cursor(self) -> Any:
        dialect: Any = self.dialect
        if dialect.session_of(self._dbapi_connection).checkout.gathers:
            self._is_server_side = False
            return BufferedCursor()
        return super().create_cursor()


@dataclass(slots=True)
class _Stop:
    """Tells the driver's thread that nobody waits any more."""

    is_wanted: bool = False


class AsyncSqliteBursts(BurstDialect):
    """Mixed into SQLite's async dialect."""

    has_bursts = True

    def burst_statement(self, pending: Pending) -> None:
        connection = self._sqlite(pending.context.root_connection._dbapi_connection.dbapi_connection)  # type: ignore[attr-defined]
        columns = getattr(pending.context.compiled, "decimal_columns", None)
        if columns and not connection.decimal_columns.issuperset(columns):
            raise CannotTravelError  # once for each column, SQLite is asked how it is stored

    def burst_begin(self, transaction: TransactionState) -> Sequence[str]:
        if transaction.read_only:
            raise CannotTravelError  # a PRAGMA says it, before and after
        begin = [self.begin_sql(transaction)]  # type: ignore[attr-defined]
        if transaction.token is not None:
            begin.append(self.token_sql(transaction.token))  # type: ignore[attr-defined]
        return begin

    def send_burst(self, proxied: Any, burst: Burst) -> None:
        raw = proxied.dbapi_connection
        connection: SqliteConnection = self._sqlite(raw)  # type: ignore[attr-defined]
        statements = [self.commented(each) for each in burst.pending]
        stop = _Stop()
        work = raw._connection._execute(lambda: _run(connection, burst, statements, stop))

        async def hop() -> None:
            task = asyncio.ensure_future(work)
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                stop.is_wanted = True
                connection.stop_now()
                await to_its_end(asyncio.wait([task], timeout=_STOP_SECONDS), 2 * _STOP_SECONDS)
                raise

        await_(hop())


def _run(connection: SqliteConnection, burst: Burst, statements: Sequence[str], stop: _Stop) -> None:
    """Carry out the burst; runs in the driver's thread."""
    place = BEGIN
    try:
        connection.stop_clock()
        for sql in burst.begin:
            connection.execute(sql).close()
        for pending, sql in zip(burst.pending, statements, strict=True):
            place = burst.answered
            _check(stop)
            connection.start_clock()
            executed = connection.execute(sql, pending.parameters or ())
            pending.cursor.fill(executed)
            executed.close()
            connection.stop_clock()
            pending.hand_over = _nothing_left
            burst.answered += 1
        place = len(burst.pending)
        _check(stop)
        connection.execute(burst.end).close()
        burst.committed = True
    except Exception as error:  # noqa: BLE001 - judged where the outcome is
        _undo(connection, burst, connection.refusal or error, place)
    burst.at_rest = burst.at_rest or (burst.committed if burst.savepoint else not connection.in_transaction)


def _undo(connection: SqliteConnection, burst: Burst, error: Exception, place: int) -> None:
    """Roll back after *error*; keep what the clock knows of it, for those who judge it."""
    timed_out = connection.timed_out if 0 <= place < len(burst.pending) else None
    connection.stop_clock()
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):  # then the connection isn't at rest, and is closed
            connection.execute(f"ROLLBACK TO SAVEPOINT {burst.savepoint}" if burst.savepoint else "ROLLBACK").close()
            burst.at_rest = True
    if timed_out is not None:
        connection.timed_out, connection.ends_at = timed_out, math.inf
    burst.fail(error, place, said=True)


def _check(stop: _Stop) -> None:
    if stop.is_wanted:
        raise sqlite3.OperationalError("interrupted")


def _nothing_left() -> None:
    """Do nothing: the cursor was filled when the statement ran."""
