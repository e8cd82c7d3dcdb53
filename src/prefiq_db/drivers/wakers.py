"""What a task waits for, and goes on with in the very callback that tells it.

A future of asyncio's wakes its task one turn of the event loop later. Where a thread tells the loop, as SQLite's
driver does, that turn is a tenth of a short statement.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Final

_NOT_CANCELLED: Final = object()


class Waker:
    """One wait of one task, by asyncio's protocol of objects that are like futures."""

    __slots__ = ("_asyncio_future_blocking", "_context", "_is_done", "_loop", "_result", "_said", "_wake_up")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = False
        self._loop = loop
        self._is_done = False
        self._result: Any = None
        self._said: Any = _NOT_CANCELLED
        self._wake_up: Callable[[Any], object] | None = None
        self._context: Context | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        if not self._is_done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def wake(self, result: Any) -> None:
        """Let the task go on at once, with *result*; only a callback of the loop may call this, and no task."""
        if self._is_done:
            return
        self._is_done, self._result = True, result
        wake_up, context = self._wake_up, self._context
        self._wake_up = self._context = None
        if wake_up is not None:
            if context is None:
                wake_up(self)
            else:
                context.run(wake_up, self)

    # --- as of a future ------------------------------------------------------------------------------

    def set_result(self, result: Any) -> None:
        """Let the task go on in the next turn of the loop."""
        self._is_done, self._result = True, result
        self._call_soon()

    def done(self) -> bool:
        return self._is_done

    def cancelled(self) -> bool:
        return self._said is not _NOT_CANCELLED

    def result(self) -> Any:
        if not self._is_done:
            raise asyncio.InvalidStateError("Result is not set.")
        if self._said is not _NOT_CANCELLED:
            raise asyncio.CancelledError(*([] if self._said is None else [self._said]))
        return self._result

    def cancel(self, msg: Any = None) -> bool:
        if self._is_done:
            return False
        self._is_done, self._said = True, msg
        self._call_soon()
        return True

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake_up: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Keep what wakes the task; there is one."""
        self._wake_up, self._context = wake_up, context
        if self._is_done:
            self._call_soon()

    def _call_soon(self) -> None:
        wake_up, context = self._wake_up, self._context
        self._wake_up = self._context = None
        if wake_up is not None:
            self._loop.call_soon(wake_up, self, context=context)
