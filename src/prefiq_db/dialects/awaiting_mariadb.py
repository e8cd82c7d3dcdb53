"""MariaDB and MySQL from a coroutine, with asyncmy's own cursor and under the clock of its connection."""

from __future__ import annotations

from typing import Any

from prefiq_db.dialects.awaiting import AwaitingDialect, Reply


class AwaitingMariadb(AwaitingDialect):
    """Mixed into the async dialects of this family."""

    is_plain: Any

    def sends_awaited(self, statement: str, compiled: Any, dbapi_connection: Any) -> bool:
        # Any other kind is sent with a savepoint around it, or its further results are to be read.
        return self.is_plain(compiled) and not dbapi_connection._execute_mutex.is_streaming

    async def execute_awaited(self, dbapi_connection: Any, statement: str, parameters: Any) -> Reply:
        cursor = dbapi_connection._connection.cursor()
        async with dbapi_connection._execute_mutex:
            await cursor.execute(statement, parameters)
            return Reply(cursor, await cursor.fetchall() if cursor.description else ())
