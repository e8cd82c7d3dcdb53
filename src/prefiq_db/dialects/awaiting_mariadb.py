"""MariaDB and MySQL from a coroutine, with asyncmy's own cursor and under the clock of its connection."""

from __future__ import annotations

from typing import Any

from prefiq_db.dialects.awaiting import AwaitingDialect, OneWait, Reply
from prefiq_db.dialects.session import SessionState
from prefiq_db.drivers.readable import is_readable
from prefiq_db.drivers.statuses import AT_REST_OF, AUTOCOMMIT


class AwaitingMariadb(AwaitingDialect):
    """Mixed into the async dialects of this family."""

    is_plain: Any

    def is_ready(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        driver, clock = dbapi_connection._connection, dbapi_connection._execute_mutex
        if driver._stream_broken or driver.is_unheard or clock.is_streaming or driver._transport is None:
            return False
        sock = driver._transport.get_extra_info("socket")
        return (
            driver.server_status & AT_REST_OF == AUTOCOMMIT
            and state.session_timeout == self.limits.statement_timeout_seconds == state.patience_seconds
            and sock is not None
            and not is_readable(sock.fileno())
        )

    def sends_awaited(self, statement: str, compiled: Any, dbapi_connection: Any) -> bool:
        # Any other kind is sent with a savepoint around it, or its further results are to be read.
        return self.is_plain(compiled) and not dbapi_connection._execute_mutex.is_streaming

    def new_cursor(self, dbapi_connection: Any, compiled: Any = None) -> Any:
        if compiled is not None and not self.is_plain(compiled):
            return dbapi_connection.cursor()  # there may be further results, which the adapter's reads
        return _OneReply(dbapi_connection, dbapi_connection._connection.cursor())

    async def execute_awaited(self, dbapi_connection: Any, statement: str, parameters: Any) -> Reply:
        cursor = dbapi_connection._connection.cursor()
        async with dbapi_connection._execute_mutex:
            await cursor.execute(statement, parameters)
            return Reply(cursor, await cursor.fetchall() if cursor.description else ())


class _OneReply(OneWait):
    """A cursor that reads the one result of a statement."""

    __slots__ = ()

    async def _carry_out(self, statement: str, parameters: Any) -> None:
        cursor = self._cursor
        async with self._adapted._execute_mutex:
            await cursor.execute(statement, parameters)
            if cursor.description:
                self.rows = await cursor.fetchall()
