"""asyncmy's connection with an end to every wait: one timer of the event loop per request.

asyncmy's own ``read_timeout`` counts each read anew, leaves out writing, and makes each wait three times as dear.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import asyncmy
from sqlalchemy.dialects.mysql.asyncmy import (
    AsyncAdapt_asyncmy_connection,
    AsyncAdapt_asyncmy_cursor,
    AsyncAdapt_asyncmy_dbapi,
    AsyncAdapt_asyncmy_ss_cursor,
)

from prefiq_db.bridge import await_
from prefiq_db.drivers.deadlines import UNBOUNDED_SECONDS, DeadlinePassed

T = TypeVar("T")

# Rows of a batch that share one clock: the server counts the time of each, and says nothing until all are done.
_ROWS_PER_CLOCK: Final = 500
# COM_QUIT, with its header.
_QUIT: Final = b"\x01\x00\x00\x00\x01"


class AsyncmyDeadlinePassed(asyncmy.errors.OperationalError, DeadlinePassed):
    """asyncmy's error for a server that did not answer in time."""


class Clock(asyncio.Lock):
    """The lock that SQLAlchemy's adapter takes for each request; while it is held, time runs.

    Attributes:
        patience_seconds: the longest that a request may take.
    """

    def __init__(self, connection: Any) -> None:
        super().__init__()
        self.patience_seconds: float = UNBOUNDED_SECONDS
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None
        self._passed = False

    async def __aenter__(self) -> None:
        await self.acquire()
        self._timer = asyncio.get_running_loop().call_later(self.patience_seconds, self._break_off)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.release()
        if self._passed and isinstance(error, Exception):
            raise AsyncmyDeadlinePassed(f"no answer within {self.patience_seconds:g} s")

    def _break_off(self) -> None:
        self._passed = True
        if self._connection._transport is not None:
            # Below the driver: whatever it waits for, reading or writing, ends.
            self._connection._transport.abort()


class _Cursor(AsyncAdapt_asyncmy_cursor):
    __slots__ = ()

    _cursor: Any

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> Any:
        changed = 0
        for start in range(0, len(seq_of_parameters), _ROWS_PER_CLOCK):
            async with self._adapt_connection._execute_mutex:
                await self._cursor.executemany(operation, seq_of_parameters[start : start + _ROWS_PER_CLOCK])
            changed += max(0, self._cursor.rowcount)
        self._cursor.rowcount = changed

    def nextset(self) -> None:
        await_(self._next_set())

    async def _next_set(self) -> None:
        async with self._adapt_connection._execute_mutex:
            await self._cursor.nextset()
            if self._cursor.description and not self.server_side:
                self._rows.extend(await self._cursor.fetchall())


class _ServerSideCursor(AsyncAdapt_asyncmy_ss_cursor):
    __slots__ = ()

    _cursor: Any

    def fetchone(self) -> Any:
        return self._fetched(self._cursor.fetchone())

    def fetchmany(self, size: int | None = None) -> Any:
        return self._fetched(self._cursor.fetchmany(size=size))

    def fetchall(self) -> Any:
        return self._fetched(self._cursor.fetchall())

    def close(self) -> None:
        if self._cursor is not None:
            # It reads what is left.
            await_(self._timed(self._cursor.close()))
            self._cursor = None

    def _fetched(self, rows: Awaitable[T]) -> T:
        return await_(self._timed(rows))

    async def _timed(self, awaitable: Awaitable[T]) -> T:
        async with self._adapt_connection._execute_mutex:
            return await awaitable


class AdaptedConnection(AsyncAdapt_asyncmy_connection):
    """SQLAlchemy's adapter, with a clock in the place of its lock and a goodbye that waits for nobody."""

    __slots__ = ()

    _cursor_cls = _Cursor
    _ss_cursor_cls = _ServerSideCursor

    def __init__(self, dbapi: Any, connection: Any) -> None:
        super().__init__(dbapi, connection)
        self._execute_mutex = Clock(connection)

    def close(self) -> None:
        await_(self._terminate_graceful_close())

    async def _terminate_graceful_close(self) -> None:
        # TLS would wait half a minute for the server's own goodbye.
        connection = self._connection
        protocol = connection._proto
        # A cancelled statement has closed the connection already, but TLS may still be at its goodbye.
        transport = None if protocol is None else protocol.transport
        if transport is not None:
            if connection._connected and not transport.is_closing():
                with contextlib.suppress(asyncmy.errors.OperationalError):
                    connection._write_bytes(_QUIT)
            transport.abort()
            await protocol.wait_closed()
        connection.close()


class Dbapi(AsyncAdapt_asyncmy_dbapi):
    """SQLAlchemy's DBAPI for asyncmy, making connections of ours."""

    def connect(self, *args: Any, **arguments: Any) -> AdaptedConnection:
        create = arguments.pop("async_creator_fn", self.asyncmy.connect)
        made: AdaptedConnection = await_(AdaptedConnection.create(self, create(*args, **arguments)))
        return made
