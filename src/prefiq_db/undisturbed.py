"""Drive a coroutine to its end in the running task, and let no cancellation of the task reach it.

A task of its own would cost three turns of the event loop: one to begin, and two to tell that it has ended. What runs
here must wait for the driver alone: ``asyncio.timeout()`` and the like cancel the task that they run in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

_NOT_CANCELLED: Final = object()


class Undisturbed:
    """What to await to run *coroutine*; it raises a cancellation that came meanwhile when the coroutine has ended.

    While it waits, it stands between the task and the future that the coroutine waits for, by asyncio's protocol of
    objects that are like futures: it wakes the task as the future does, and keeps what ``cancel()`` says.

    Args:
        seconds: after which the coroutine is cancelled.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_coroutine",
        "_future",
        "_is_late",
        "_is_over",
        "_loop",
        "_said",
        "_seconds",
    )

    def __init__(self, coroutine: Coroutine[Any, Any, Any], seconds: float) -> None:
        self._coroutine = coroutine
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._asyncio_future_blocking = False
        self._future: Any = None
        self._is_late = self._is_over = False
        self._said: Any = _NOT_CANCELLED

    def __await__(self) -> Generator[Any, None, Any]:
        timer = self._loop.call_later(self._seconds, self._be_late)
        failure: BaseException | None = None
        result: Any = None
        try:
            result = yield from self._driven()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised below, unless the task is cancelled
            failure = error
        finally:
            self._is_over = True
            timer.cancel()
        try:
            if self._said is not _NOT_CANCELLED:
                raise asyncio.CancelledError(*([] if self._said is None else [self._said]))
            if failure is None:
                return result
            if self._is_late and isinstance(failure, asyncio.CancelledError):
                raise TimeoutError(f"not done within {self._seconds:g} s")
            raise failure
        finally:
            del failure  # its traceback holds this frame

    def _driven(self) -> Generator[Any, None, Any]:
        send = self._coroutine.send
        try:
            while True:
                self._future = future = send(None)
                try:
                    if future is None:  # asyncio.sleep(0)
                        yield
                    else:
                        future._asyncio_future_blocking = False
                        self._asyncio_future_blocking = True
                        yield self
                except GeneratorExit:
                    self._coroutine.close()
                    raise
                except asyncio.CancelledError as error:
                    if future is None:
                        self._keep(*error.args[:1])
                except Exception:  # noqa: BLE001, S110 - the future's own: it raises it where it is awaited
                    pass
        except StopIteration as end:
            return end.value
        finally:
            self._future = None

    def _keep(self, said: Any = None) -> None:
        if self._said is _NOT_CANCELLED:  # the first one: asyncio.timeout() compares messages
            self._said = said

    def _be_late(self) -> None:
        if self._is_over:
            return
        self._is_late = True
        if self._future is None or not self._future.cancel():
            self._loop.call_soon(self._be_late)  # it waits for nothing that could tell it, or for no longer

    # --- what a task does with the future that it waits for -----------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake_up: Callable[[Any], object], *, context: Any = None) -> None:
        self._future.add_done_callback(wake_up, context=context)

    def cancel(self, msg: Any = None) -> bool:
        """Keep the cancellation for later; return that it was taken."""
        self._keep(msg)
        return True
