"""SQLite from a coroutine: a statement, its rows and its end take one turn in the driver's thread, not three."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any

from prefiq_db.dialects.awaiting import AwaitingDialect, OneWait, Reply
from prefiq_db.dialects.session import SessionState
from prefiq_db.dialects.sqlite_connection import SqliteConnection
from prefiq_db.drivers.wakers import Waker


class AwaitingSqlite(AwaitingDialect):
    """Mixed into SQLite's async dialect."""

    _sqlite: Any

    def is_bounded(self, state: SessionState, dbapi_connection: Any, seconds: float) -> bool:
        connection: SqliteConnection = self._sqlite(dbapi_connection)
        return connection.lock_wait_seconds == min(self.limits.lock_timeout_seconds, seconds)

    def sends_awaited(self, statement: str, compiled: Any, dbapi_connection: Any) -> bool:
        connection: SqliteConnection = self._sqlite(dbapi_connection)
        columns = getattr(compiled, "decimal_columns", None)
        return not columns or connection.decimal_columns.issuperset(columns)

    def is_ready(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        limits, driver = self.limits, dbapi_connection._connection
        connection: SqliteConnection | None = driver._connection
        seconds = limits.statement_timeout_seconds
        if connection is None or not driver._running:
            return False
        if connection.in_transaction or connection.isolation_level is not None or connection.ran is not None:
            return False
        if connection.timeout_seconds != seconds or connection.lock_wait_seconds != limits.lock_wait_seconds:
            return False
        connection.start_clock()
        return True

    def settle(self, dbapi_connection: Any, error: Exception) -> Exception:
        connection: SqliteConnection = self._sqlite(dbapi_connection)
        if connection.timed_out:  # the error is judged; the next one may be about something else
            connection.timed_out = False
            connection.stop_clock()
        return error if connection.refusal is None else connection.refusal

    def close_now(self, dbapi_connection: Any) -> None:
        driver = dbapi_connection._connection
        if driver._connection is None or not driver._running:
            return
        driver._connection.stop_now()
        # Not its stop(): that tells the event loop when the thread has ended, and the loop may be closed by then.
        driver._running = False
        driver._tx.put_nowait((None, partial(_close_and_stop, driver)))

    def new_cursor(self, dbapi_connection: Any, compiled: Any = None) -> Any:
        driver = dbapi_connection._connection
        if driver._connection is None or not driver._running:
            return dbapi_connection.cursor()  # the adapter's says so
        return _OneTurn(dbapi_connection, None)

    async def execute_awaited(self, dbapi_connection: Any, statement: str, parameters: Any) -> Reply:
        driver = dbapi_connection._connection
        turn = _Turn(driver._conn, statement, parameters)
        await turn.taken(driver)
        return Reply(turn.cursor, turn.rows)

    async def send_awaited(self, statement: str, parameters: Any, context: Any, state: SessionState) -> Reply:
        connection: SqliteConnection = self._sqlite(context.dbapi_connection)
        connection.start_clock()
        try:
            return await super().send_awaited(statement, parameters, context, state)
        except Exception as error:
            failure = self.settle(context.dbapi_connection, error)
            if failure is error:
                raise
        raise failure


def _close_and_stop(driver: Any) -> object:
    """Close SQLite's connection in the driver's thread; return what ends the thread."""
    from aiosqlite import core

    connection, driver._connection = driver._connection, None
    if connection is not None:
        connection.close()
    return core._STOP_RUNNING_SENTINEL


class _Turn:
    """One statement in the driver's thread; its ``repr``, which the driver logs, shows neither text nor values."""

    __slots__ = ("_loop", "_waker", "connection", "cursor", "parameters", "rows", "statement")

    def __init__(self, connection: SqliteConnection, statement: str, parameters: Any) -> None:
        self.connection = connection
        self.statement = statement
        self.parameters = parameters
        self.cursor: sqlite3.Cursor | None = None
        self.rows: Sequence[Any] = ()
        self._loop = asyncio.get_running_loop()
        self._waker = Waker(self._loop)

    async def taken(self, driver: Any) -> None:
        """Wait for the turn, as the driver's own ``_execute`` does."""
        if not driver._running:
            raise ValueError("Connection closed")
        driver._tx.put_nowait((None, self.take))
        error = await self._waker
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    def take(self) -> None:
        """Carry out the statement, and let the task go on; runs in the driver's thread."""
        failure: BaseException | None = None
        try:
            self._carry_out()
        except BaseException as error:  # noqa: BLE001 - the task raises it
            failure = error
        try:
            self._loop.call_soon_threadsafe(self._waker.wake, failure)
        finally:
            del failure  # likewise

    def _carry_out(self) -> None:
        self.cursor = cursor = self.connection.execute(self.statement, self.parameters)
        try:
            if cursor.description is not None:
                self.rows = cursor.fetchall()
        finally:
            cursor.close()


class _OneTurn(OneWait):
    """A cursor whose statement takes one turn in the driver's thread."""

    __slots__ = ()

    async def _carry_out(self, statement: str, parameters: Any) -> None:
        driver = self._adapted._connection
        turn = _Turn(driver._conn, statement, () if parameters is None else parameters)
        await turn.taken(driver)
        self._cursor, self.rows = turn.cursor, turn.rows
