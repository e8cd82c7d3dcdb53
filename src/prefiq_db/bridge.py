"""The one door to SQLAlchemy's greenlet bridge, and the two worlds behind one interface.

The core of prefiq_db is synchronous code. In the async world it runs inside a greenlet, one per verb, and whatever has
to wait does so through a :class:`Runtime`. Nothing else imports SQLAlchemy's bridge.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from types import FrameType
from typing import Any, Protocol, TypeVar

import greenlet
from sqlalchemy.util.concurrency import await_ as _await
from sqlalchemy.util.concurrency import greenlet_spawn as _greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet as _in_greenlet

from prefiq_db.forks import in_child
from prefiq_db.unrun import refuse_awaitable, refuse_unrun

T = TypeVar("T")


def await_(awaitable: Awaitable[T]) -> T:
    """Wait for *awaitable* from synchronous code that runs under :func:`spawn`."""
    return _await(awaitable)


def can_await() -> bool:
    """Return whether the caller runs under :func:`spawn`; the garbage collector, for one, does not."""
    return bool(_in_greenlet())


async def spawn(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run the synchronous *function* so that it may :func:`await_`."""
    result: T = await _greenlet_spawn(function, *args, **kwargs)
    return result


def frame_behind() -> FrameType | None:
    """Return the frame that waits for the running greenlet, where the async application goes on; else ``None``."""
    parent = greenlet.getcurrent().parent
    frame: FrameType | None = None if parent is None else parent.gr_frame
    return frame


class Runtime(Protocol):
    """How one world sleeps, calls user code, names its workers and shields a COMMIT."""

    is_async: bool

    def sleep(self, seconds: float) -> None:
        """Wait without blocking anybody else of this world."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call user code and, in the async world, await what it returns."""

    def worker(self) -> object:
        """Return what identifies the running task or thread, for comparing with ``==``."""

    def shielded(self, function: Callable[[], T], budget_seconds: float) -> T:
        """Run *function* to its end although the task is cancelled meanwhile, for at most *budget_seconds*.

        A cancellation that arrived is raised afterwards, the very same instance, when *function* has ended.
        """

    def beside(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start *function* in a thread or task of its own; calling what is returned waits for its end.

        *function* must not raise.
        """

    def check(self) -> None:
        """Raise ``RuntimeError`` when called from where this world can't work (no loop, or another loop)."""

    def forget_loop(self) -> None:
        """Belong to no event loop any more: the next one that asks is the one."""


# Set inside a shielded task: that task, and the one that it acts for. A task started from it is neither.
_acting_for: ContextVar[tuple[object, object] | None] = ContextVar("prefiq_db_acting_for", default=None)


class SyncRuntime:
    """Threads. A sync database used from tasks of one loop tells the tasks apart as well."""

    is_async = False

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        refuse_awaitable(result, "the function given to a Database (AsyncDatabase takes async ones)")
        return result

    def worker(self) -> object:
        return (threading.get_ident(), _running_task())

    def shielded(self, function: Callable[[], T], budget_seconds: float) -> T:
        return function()

    def beside(self, function: Callable[[], None]) -> Callable[[], None]:
        thread = threading.Thread(target=function, name="prefiq_db beside", daemon=True)
        thread.start()
        return thread.join

    def check(self) -> None:
        return None

    def forget_loop(self) -> None:
        return None


class AsyncRuntime:
    """Tasks of the one event loop that the engine belongs to."""

    is_async = True

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        in_child(self, AsyncRuntime.forget_loop)

    def sleep(self, seconds: float) -> None:
        await_(asyncio.sleep(seconds))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await_(result)
        refuse_unrun(result, "the function given to an AsyncDatabase")
        return result

    def worker(self) -> object:
        task = asyncio.current_task()
        acting = _acting_for.get()
        return acting[1] if acting is not None and acting[0] is task else task

    def shielded(self, function: Callable[[], T], budget_seconds: float) -> T:
        return await_(_shielded(function, budget_seconds))

    def beside(self, function: Callable[[], None]) -> Callable[[], None]:
        task = asyncio.get_running_loop().create_task(spawn(function))
        return lambda: await_(task)

    def check(self) -> None:
        running = asyncio.get_running_loop()
        if self.loop is None:
            self.loop = running
        elif self.loop is not running:
            raise RuntimeError("another event loop")

    def forget_loop(self) -> None:
        self.loop = None


def _running_task() -> object | None:
    # asyncio.current_task() raises outside a loop; most sync callers never imported asyncio at all.
    if "asyncio" not in sys.modules or asyncio._get_running_loop() is None:
        return None
    return asyncio.current_task()


async def _acting(caller: asyncio.Task[Any] | None, function: Callable[[], T]) -> T:
    """Run *function* on behalf of *caller*: what is the caller's, an outer transaction say, is usable here."""
    _acting_for.set((asyncio.current_task(), caller))
    return await spawn(function)


async def _shielded(function: Callable[[], T], budget_seconds: float) -> T:
    """Run *function* in a task of its own, which a cancellation of the caller doesn't reach."""
    task = asyncio.create_task(_acting(asyncio.current_task(), function))
    cancelled = await _ended(task, budget_seconds)
    if cancelled is not None:
        # Look at the result, or asyncio complains that nobody did; the caller notes what came of it.
        _ = task.cancelled() or task.exception()
        raise cancelled
    if task.cancelled():
        raise TimeoutError(f"not done within {budget_seconds:g} s")
    return task.result()


async def to_its_end(coroutine: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Run *coroutine* for at most *seconds*, for a caller who is cancelled already and goes on with that.

    It runs in a task of its own; what cancels the caller meanwhile, anyio's scopes too, doesn't reach it.
    """
    task = asyncio.create_task(coroutine)
    await _ended(task, seconds)
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


async def _ended(task: asyncio.Task[Any], seconds: float) -> asyncio.CancelledError | None:
    """Wait until *task* has ended, by being cancelled after *seconds*; return what cancelled the caller meanwhile."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    cancelled: asyncio.CancelledError | None = None
    with _anyio_shield():
        while not task.done() and (left := deadline - loop.time()) > 0:
            try:
                await asyncio.wait([task], timeout=left)
            except asyncio.CancelledError as error:
                # Keep the first one: asyncio.timeout() compares instances' messages and counts cancellations.
                cancelled = cancelled or error
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    return cancelled


def _anyio_shield() -> Any:
    """Return a shield against anyio's cancel scopes, which would otherwise cancel again at every await."""
    if "anyio" in sys.modules:
        import anyio

        try:
            return anyio.CancelScope(shield=True)
        except RuntimeError:  # anyio is imported, but this loop is none of its own
            return _NoShield()
    return _NoShield()


class _NoShield:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None
