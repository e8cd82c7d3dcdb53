"""Send one statement in one wait: from a coroutine outside a transaction, under the bridge everywhere else.

What may have to wait in the coroutine besides the driver's own call (another time limit at the server, a reply that is
still to be read, a check of a column) is left to the bridge: :meth:`AwaitingDialect.sends_awaited` says so before
anything is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefiq_db.bridge import await_
from prefiq_db.dialects.engine_parts import ConfiguredDialect
from prefiq_db.dialects.session import SessionState


class Reply:
    """The reply to a statement, read to its end: to those that read a result it is the driver's cursor.

    Attributes:
        rows: all of them, as the driver's tuples.
    """

    __slots__ = ("_at", "_cursor", "rows")

    def __init__(self, cursor: Any, rows: Sequence[Any]) -> None:
        #: the driver's own, where the dialect looks for more
        self._cursor = cursor
        self.rows = rows
        self._at = 0

    @property
    def description(self) -> Any:
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        count: int = self._cursor.rowcount
        return count

    @property
    def lastrowid(self) -> Any:
        return self._cursor.lastrowid

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that are left."""
        return self.fetchmany(len(self.rows))

    def fetchone(self) -> Any:
        """Return the next row, or ``None``."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int) -> Sequence[Any]:
        """Return at most *size* rows."""
        start, self._at = self._at, self._at + size
        return self.rows[start : self._at]

    def close(self) -> None:
        """Drop the rows."""
        self.rows = ()


class OneWait(Reply):
    """A cursor for one statement under the bridge, which waits once: SQLAlchemy's adapters wait for each call of it."""

    __slots__ = ("_adapted",)

    def __init__(self, adapted: Any, cursor: Any) -> None:
        super().__init__(cursor, ())
        #: SQLAlchemy's adapter of the driver's connection
        self._adapted = adapted

    def execute(self, statement: str, parameters: Any = None) -> None:
        """Send *statement*, and read the whole reply."""
        try:
            await_(self._carry_out(statement, parameters))
        except Exception as error:  # noqa: BLE001 - SQLAlchemy's adapter raises what its users expect
            self._adapted._handle_exception(error)

    async def _carry_out(self, statement: str, parameters: Any) -> None:
        raise NotImplementedError


class AwaitingDialect(ConfiguredDialect):
    """Mixed into our dialects of drivers for asyncio."""

    waits_once = True

    def is_bounded(self, state: SessionState, dbapi_connection: Any, seconds: float) -> bool:
        """Return whether limiting a statement to *seconds* needs no word to the server."""
        return state.session_timeout == seconds

    def sends_awaited(self, statement: str, compiled: Any, dbapi_connection: Any) -> bool:
        """Return whether nothing but the driver's call has to wait when *statement* is sent on this connection."""
        return True

    def close_now(self, dbapi_connection: Any) -> None:
        """Close the connection without waiting for its driver: where nobody can await."""
        dbapi_connection._terminate_force_close()

    async def execute_awaited(self, dbapi_connection: Any, statement: str, parameters: Any) -> Reply:
        """Send *statement*, and return the whole reply; errors are the driver's own."""
        raise NotImplementedError

    async def send_awaited(self, statement: str, parameters: Any, context: Any, state: SessionState) -> Reply:
        """Send *statement* and note what became of it, as ``do_execute`` does outside a transaction."""
        observer: Any = self.observer
        raw = context.dbapi_connection
        reply: Reply = await observer.observe_awaited(self._executed, raw, statement, parameters, context, state)
        return reply

    async def _executed(self, raw: Any, statement: str, parameters: Any) -> Reply:
        try:
            return await self.execute_awaited(raw, statement, parameters)
        except Exception as error:
            raw._handle_exception(error)
            raise
