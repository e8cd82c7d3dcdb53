"""A timeout for every wait of asyncmy: one timer of the event loop per request.

asyncmy's own ``read_timeout`` starts anew with each read, leaves out writing, and makes each wait three times as slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import asyncmy

from prefiq_db.bridge import to_its_end
from prefiq_db.drivers.deadlines import UNBOUNDED_SECONDS, DeadlinePassed
from prefiq_db.drivers.stopping import STOP_SECONDS, beside, port_of


class AsyncmyDeadlinePassed(asyncmy.errors.OperationalError, DeadlinePassed):
    """asyncmy's error for a server that did not answer in time."""


class Clock(asyncio.Lock):
    """The lock that SQLAlchemy's adapter takes for each request; while it is held, the timer runs.

    Attributes:
        patience_seconds: the longest that a request may take.
        end_session: ends a session from another connection, by its number and its client's port.
        is_committing: COMMIT is running: a caller who stops waiting for it must let it go on.
        is_streaming: the rows of a stream are not read to their end; every other statement is refused meanwhile.
    """

    def __init__(self, connection: Any) -> None:
        super().__init__()
        self.patience_seconds: float = UNBOUNDED_SECONDS
        self.end_session: Callable[[int, int | None], None] | None = None
        self.is_committing = False
        self.is_streaming = False
        self._connection = connection
        # Read now, because a closed transport doesn't give its address on every platform.
        self._port = port_of(connection._transport.get_extra_info("sockname"))
        self._timer: asyncio.TimerHandle | None = None
        self._passed = False

    async def __aenter__(self) -> None:
        await self.acquire()
        self._timer = asyncio.get_running_loop().call_later(self.patience_seconds, self._break_off)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            # A coroutine that is closed (GeneratorExit) can't wait, and for the rest asyncmy raises its own error.
            if isinstance(error, asyncio.CancelledError) and (ended := self._session_ended()) is not None:
                await to_its_end(asyncio.wait([asyncio.wrap_future(ended)], timeout=STOP_SECONDS), 2 * STOP_SECONDS)
        finally:
            self.release()
        if self._passed and isinstance(error, Exception):
            raise AsyncmyDeadlinePassed(f"no answer within {self.patience_seconds:g} s")

    def _session_ended(self) -> Future[None] | None:
        """Start ending the session at the server, where its statement would go on; return a future for the end."""
        if self.end_session is None or self.is_committing:
            return None
        return beside(partial(self.end_session, self._connection.thread_id(), self._port))

    def stop_unread(self) -> None:
        """Close the connection although the server is sending rows, and end its session there."""
        self._session_ended()
        if self._connection._transport is not None:
            self._connection._transport.abort()
        result = self._connection._result
        if result is not None:
            result.unbuffered_active = False
            result.connection = None

    def _break_off(self) -> None:
        self._passed = True
        self._session_ended()
        if self._connection._transport is not None:
            # Below the driver, so that any wait ends, whether it reads or writes.
            self._connection._transport.abort()
