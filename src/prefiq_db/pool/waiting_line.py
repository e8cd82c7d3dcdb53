"""The queue of threads or tasks that wait for a connection, woken one at a time with the connection that they get.

SQLAlchemy's queues wake the longest waiter, but another caller may take the connection before that one runs; the
longest waiter then starts again at the end. Here a free connection belongs to the first waiter at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from prefiq_db.bridge import await_


class ThreadWaiter:
    """A thread that waits until it is given something."""

    __slots__ = ("_asleep", "gift")

    def __init__(self) -> None:
        self.gift: Any = None
        self._asleep = threading.Lock()
        self._asleep.acquire()

    def wait(self, seconds: float) -> None:
        self._asleep.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def wake(self) -> None:
        if self._asleep.locked():
            self._asleep.release()


class TaskWaiter:
    """A task that waits until it is given something; the others of its loop go on."""

    __slots__ = ("_awake", "_loop", "gift")

    def __init__(self) -> None:
        self.gift: Any = None
        self._loop = asyncio.get_running_loop()
        self._awake = self._loop.create_future()

    def wait(self, seconds: float) -> None:
        await_(self.awoken(seconds))

    async def awoken(self, seconds: float) -> None:
        """Wait until something was given, or *seconds* have passed.

        A cancellation cancels the future, but the gift lies beside it and goes to the next waiter.
        """
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._awake
        finally:
            timer.cancel()

    def wake(self) -> None:
        # The garbage collector returns a forgotten connection in whatever thread it runs.
        if asyncio._get_running_loop() is self._loop:
            self._wake()
        else:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._awake.done():
            self._awake.set_result(None)


class WaitingLine:
    """A queue of waiters: first come, first served.

    Args:
        take: returns something to give away, or ``None`` if there is nothing.
        put_back: takes back the gift of a waiter that has left.
    """

    def __init__(self, is_async: bool, take: Callable[[], Any], put_back: Callable[[Any], None]) -> None:
        self.waiters: deque[ThreadWaiter | TaskWaiter] = deque()
        self._waiter: type[ThreadWaiter] | type[TaskWaiter] = TaskWaiter if is_async else ThreadWaiter
        self._take = take
        self._put_back = put_back
        # Reentrant: the garbage collector may return a connection in a thread that already holds the lock.
        self._lock = threading.RLock()

    def wait(self, seconds: float) -> Any:
        """Return what this caller was given, or ``None`` if nothing became free within *seconds*."""
        waiter = self._waiter()
        try:
            with self._lock:
                self.waiters.append(waiter)
            # What became free just before we joined may not have been given away.
            self.serve()
            if waiter.gift is None:
                waiter.wait(seconds)
            return self._leave(waiter)
        except BaseException:
            self._forsake(waiter)
            raise

    async def wait_awaited(self, seconds: float) -> Any:
        """Return the same as :meth:`wait`, for a task."""
        waiter = TaskWaiter()
        try:
            with self._lock:
                self.waiters.append(waiter)
            self.serve()
            if waiter.gift is None:
                await waiter.awoken(seconds)
            return self._leave(waiter)
        except BaseException:
            self._forsake(waiter)
            raise

    def serve(self) -> None:
        """Give whatever is free to the waiters, in order. Call it after something became free."""
        with self._lock:
            while self.waiters and self._give():
                pass

    def _give(self) -> bool:
        """Give one thing to the first in line; return whether there was something."""
        gift: Any = None
        waiter: ThreadWaiter | TaskWaiter | None = None
        try:
            gift = self._take()
            if gift is None:
                return False
            waiter = self.waiters.popleft()
            waiter.gift = gift
            waiter.wake()
            return True
        except IndexError:  # served in the meantime, by this thread in a finaliser
            self._put_back(gift)
            return False
        except BaseException:
            self._repair(gift, waiter)
            raise

    def _repair(self, gift: Any, waiter: ThreadWaiter | TaskWaiter | None) -> None:
        """Ensure that no gift is lost, and no waiter sleeps outside the queue."""
        if waiter is not None and waiter.gift is not None:
            waiter.wake()
            return
        if waiter is not None:
            self.waiters.appendleft(waiter)
        if gift is not None:
            self._put_back(gift)

    def _leave(self, waiter: ThreadWaiter | TaskWaiter) -> Any:
        with self._lock:
            if waiter.gift is None:
                self.waiters.remove(waiter)
            return waiter.gift

    def _forsake(self, waiter: ThreadWaiter | TaskWaiter) -> None:
        """Remove *waiter* from the queue, wherever it was interrupted; its gift goes to the next."""
        with self._lock:
            if waiter in self.waiters:
                self.waiters.remove(waiter)
            gift, waiter.gift = waiter.gift, None
        if gift is not None:
            self._put_back(gift)
        self.serve()
