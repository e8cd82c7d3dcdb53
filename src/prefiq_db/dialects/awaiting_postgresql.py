"""PostgreSQL from a coroutine, with psycopg's own cursor."""

from __future__ import annotations

from typing import Any, Final

from prefiq_db.dialects.awaiting import AwaitingDialect, OneWait, Reply
from prefiq_db.dialects.session import SessionState
from prefiq_db.drivers.halfway import close_if_halfway
from prefiq_db.drivers.prepared import is_outdated, is_repeatable, names_of
from prefiq_db.drivers.readable import is_readable

_TUPLES_OK: Final = 2  # psycopg.pq.ExecStatus.TUPLES_OK
_OK: Final = 0  # psycopg.pq.ConnStatus.OK
_IDLE: Final = 0  # psycopg.pq.TransactionStatus.IDLE


class AwaitingPostgresql(AwaitingDialect):
    """Mixed into PostgreSQL's async dialect."""

    def is_bounded(self, state: SessionState, dbapi_connection: Any, seconds: float) -> bool:
        return state.session_timeout == seconds or not self.limits.session_settings

    def is_ready(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        driver, limits = dbapi_connection._connection, self.limits
        pgconn = driver.pgconn
        return (
            driver._hearing is None
            and pgconn.status == _OK
            and pgconn.transaction_status == _IDLE
            and driver._autocommit
            and driver._pipeline is None
            and state.session_timeout == limits.statement_timeout_seconds == state.patience_seconds
            and limits.session_settings
            and not is_readable(pgconn.socket)
        )

    def close_now(self, dbapi_connection: Any) -> None:
        dbapi_connection._connection.pgconn.finish()

    def new_cursor(self, dbapi_connection: Any, compiled: Any = None) -> Any:
        return _OneReply(dbapi_connection, dbapi_connection._connection.cursor())

    async def execute_awaited(self, dbapi_connection: Any, statement: str, parameters: Any) -> Reply:
        driver = dbapi_connection._connection
        cursor = driver.cursor()
        try:
            await cursor.execute(statement, parameters)
        except Exception as error:
            close_if_halfway(driver, error)
            outdated = is_outdated(cursor, error, statement, parameters, names_of(cursor))
            if not outdated or not is_repeatable(cursor, statement):
                raise
            result = None
        else:
            result = cursor.pgresult
        if result is None:  # a prepared statement was outdated, and is prepared again
            await cursor.execute(statement, parameters)
            result = cursor.pgresult
        has_rows = result is not None and result.status == _TUPLES_OK
        return Reply(cursor, await cursor.fetchall() if has_rows else ())


class _OneReply(OneWait):
    """A cursor over psycopg's own."""

    __slots__ = ()

    async def _carry_out(self, statement: str, parameters: Any) -> None:
        cursor = self._cursor
        await cursor.execute(statement, parameters)
        result = cursor.pgresult
        if result is not None and result.status == _TUPLES_OK:
            self.rows = await cursor.fetchall()
