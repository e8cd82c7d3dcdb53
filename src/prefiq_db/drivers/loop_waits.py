"""Wait for a socket or a deadline in an event loop, without telling the loop of every wait.

asyncio registers a socket for each wait and removes it afterwards, and makes a timer: that is half of a short
statement's instructions. Here the loop knows one epoll descriptor and one timer, whatever the number of connections.
A socket is armed for one event; the kernel forgets those that are closed.
"""

from __future__ import annotations

import asyncio
import math
import select
import time
from asyncio import AbstractEventLoop, Future
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

import psycopg
from psycopg import waiting
from psycopg.errors import _WaitTimeout

# Of psycopg.waiting.Wait and Ready.
_READ: Final = 1
_WRITE: Final = 2

_POSSIBLE: Final = hasattr(select, "epoll")
_ONCE: Final = select.EPOLLONESHOT if _POSSIBLE else 0
_EVENTS: Final = {
    _READ: _ONCE | (select.EPOLLIN | select.EPOLLRDHUP if _POSSIBLE else 0),
    _WRITE: _ONCE | (select.EPOLLOUT if _POSSIBLE else 0),
    _READ | _WRITE: _ONCE | (select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLOUT if _POSSIBLE else 0),
}
_OUT: Final = select.EPOLLOUT if _POSSIBLE else 0
_BUSY_SECONDS: Final = waiting.MAX_BUSY_TIME


class LoopWaits:
    """The waits of one event loop.

    Attributes:
        loop: a reference to the loop, which keeps this.
    """

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.loop = ref(loop)
        self._epoll = select.epoll()
        #: who waits for a descriptor
        self._waiters: dict[int, Future[int]] = {}
        #: when each wait that has a limit ends at the latest, on the monotonic clock
        self._ends: dict[Future[int], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._last_turn = time.monotonic()
        loop.add_reader(self._epoll.fileno(), self._look)

    async def carry_out(self, gen: Any, descriptor: int, seconds: float | None) -> Any:
        """Run psycopg's *gen* as ``psycopg.waiting.wait_async`` does.

        Raises:
            psycopg.errors._WaitTimeout: it was not done within *seconds*.
        """
        try:
            wanted = next(gen)
        except StopIteration as end:
            # Without an end of its own a long COPY, say, would let no other task run.
            if time.monotonic() - self._last_turn >= _BUSY_SECONDS:
                await self._turn()
            return end.value
        ends_at = None if seconds is None else time.monotonic() + seconds
        try:
            while True:
                ready = waiting._ready(descriptor, wanted) if wanted & _WRITE else 0
                if not ready:
                    ready = await self._until(descriptor, wanted, ends_at)
                elif time.monotonic() - self._last_turn >= _BUSY_SECONDS:
                    await self._turn()
                wanted = gen.send(ready)
                if ends_at is not None and time.monotonic() >= ends_at:
                    raise _WaitTimeout("wait timeout expired")
        except OSError as error:
            raise psycopg.OperationalError("connection socket closed") from error
        except StopIteration as end:
            return end.value

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        self._last_turn = time.monotonic()

    async def _until(self, descriptor: int, wanted: int, ends_at: float | None) -> int:
        """Return what *descriptor* is ready for; 0 when the time is over."""
        loop = self.loop()
        assert loop is not None, "it runs"
        try:
            self._epoll.modify(descriptor, _EVENTS[wanted])
        except FileNotFoundError:
            self._epoll.register(descriptor, _EVENTS[wanted])
        self._waiters[descriptor] = waiter = loop.create_future()
        if ends_at is not None:
            self.wake_at(waiter, ends_at)
        try:
            ready: int = await waiter
            return ready
        finally:
            if self._waiters.get(descriptor) is waiter:
                del self._waiters[descriptor]
            self._ends.pop(waiter, None)
            self._last_turn = time.monotonic()

    def _look(self) -> None:
        for descriptor, events in self._epoll.poll(0):
            waiter = self._waiters.get(descriptor)
            if waiter is not None and not waiter.done():
                waiter.set_result((_WRITE if events & _OUT else 0) | (_READ if events & ~_OUT else 0))

    # --- the timer -------------------------------------------------------------------------------

    def wake_at(self, waiter: Future[int], ends_at: float) -> None:
        """Give *waiter* the result 0 at *ends_at*, on the monotonic clock, unless :meth:`forget` comes first."""
        self._ends[waiter] = ends_at
        if ends_at < self._timer_at:
            self._set_timer(ends_at)

    def forget(self, waiter: Future[int]) -> None:
        self._ends.pop(waiter, None)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = self.loop()
        assert loop is not None, "it runs"
        self._timer_at = at
        self._timer = loop.call_later(max(0.0, at - time.monotonic()), self._time_passed)

    def _time_passed(self) -> None:
        """End the waits whose time is over, and look again when the next one's is."""
        self._timer, self._timer_at = None, math.inf
        now, following = time.monotonic(), math.inf
        for waiter, ends_at in self._ends.items():
            if ends_at > now:
                following = min(following, ends_at)
            elif not waiter.done():
                waiter.set_result(0)
        if following < math.inf:
            self._set_timer(following)


# The loop itself keeps them, as the owner of a descriptor that it watches, until it is closed.
_of_loops: WeakKeyDictionary[AbstractEventLoop, ref[LoopWaits]] = WeakKeyDictionary()


def waits_of(loop: AbstractEventLoop) -> LoopWaits | None:
    """Return the waits of *loop*, which runs here; ``None`` where the system has no epoll."""
    known = _of_loops.get(loop)
    found = None if known is None else known()
    if found is None and _POSSIBLE:
        found = LoopWaits(loop)
        _of_loops[loop] = ref(found)
    return found
