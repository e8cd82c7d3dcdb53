"""The only module that uses SQLAlchemy's greenlet bridge; it puts sync and async behind one interface.

The core of prefiq_db is synchronous code. In async mode it runs inside a greenlet, one per verb, and every wait goes
through a :class:`Runtime`.
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
    """Return whether the caller runs under :func:`spawn`; code that the garbage collector calls may not."""
    return bool(_in_greenlet())


async def spawn(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run the synchronous *function* so that it may :func:`await_`."""
    result: T = await _greenlet_spawn(function, *args, **kwargs)
    return result


async def end_after(error: BaseException | None, function: Callable[..., T], *args: Any) -> T:
    """Run *function*, which ends what *error* broke off; it may await, unless the coroutine is being closed.

    A coroutine that awaits after a ``GeneratorExit`` is left there by the interpreter, with all that it holds. Outside
    a greenlet a connection is closed without waiting for its driver.
    """
    if isinstance(error, GeneratorExit):
        return function(*args)
    return await spawn(function, *args)


def frame_behind() -> FrameType | None:
    """Return the frame that waits for the running greenlet, part of the async application's stack; else ``None``."""
    parent = greenlet.getcurrent().parent
    frame: FrameType | None = None if parent is None else parent.gr_frame
    return frame


class Runtime(Protocol):
    """How sync or async code sleeps, calls user code, identifies its workers and shields a COMMIT."""

    is_async: bool

    def sleep(self, seconds: float) -> None:
        """Wait without blocking other threads or tasks."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call user code and, in async mode, await its result."""

    def worker(self) -> object:
        """Return an object that identifies the running task or thread; compare it with ``==``."""

    def shielded(self, function: Callable[[], T], budget_seconds: float) -> T:
        """Run *function* to its end even if the task is cancelled meanwhile, for at most *budget_seconds*.

        A cancellation that arrived is raised again, as the same instance, when *function* has ended.
        """

    def beside(self, function: Callable[[], None]) -> Callable[[], None]:
        """Start *function* in a thread or task of its own; return a function that waits for its end.

        *function* must not raise.
        """

    def check(self) -> None:
        """Raise ``RuntimeError`` if this runtime can't work here (no event loop, or another one)."""

    def forget_loop(self) -> None:
        """Drop the event loop; the next one that uses this runtime becomes its loop."""


def frames_acted_for() -> list[FrameType]:
    """Return the frames of the task that this shielded one acts for, the innermost first; elsewhere none.

    That task waits, so its coroutines are asked one after the other: a frame that isn't running knows no other.
    """
    acting = _acting_for.get()
    if acting is None or acting[0] is not asyncio.current_task():
        return []
    frames: list[FrameType] = []
    caller: Any = acting[1]
    coroutine: Any = None if caller is None else caller.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        frames.append(frame)
        coroutine = coroutine.cr_await
    return frames[::-1]


# Set inside a shielded task: that task, and the task it acts for. It doesn't apply to a task started from it.
_acting_for: ContextVar[tuple[object, object] | None] = ContextVar("prefiq_db_acting_for", default=None)


class SyncRuntime:
    """The runtime for threads. If tasks of one event loop use a sync database, each task counts as a worker too."""

    is_async = False

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        refuse_awaitable(result, "the function given to a Database (AsyncDatabase takes async ones)")
        return result

    def worker(self) -> object:
        # asyncio.current_task() raises outside a loop; most sync callers never imported asyncio at all.
        if "asyncio" not in sys.modules or asyncio._get_running_loop() is None:
            return (threading.get_ident(), None)
        return (threading.get_ident(), asyncio.current_task())

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
    """The runtime for tasks of the event loop that the engine belongs to."""

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


async def _acting(caller: asyncio.Task[Any] | None, function: Callable[[], T]) -> T:
    """Run *function* on behalf of *caller*: it may use the caller's objects, an outer transaction for example."""
    _acting_for.set((asyncio.current_task(), caller))
    return await spawn(function)


async def _shielded(function: Callable[[], T], budget_seconds: float) -> T:
    """Run *function* in a task of its own, which is not cancelled with the caller."""
    task = asyncio.create_task(_acting(asyncio.current_task(), function))
    cancelled = await _ended(task, budget_seconds)
    if cancelled is not None:
        # Retrieve the result, or asyncio logs that it never was; the caller records the outcome.
        _ = task.cancelled() or task.exception()
        raise cancelled
    if task.cancelled():
        raise TimeoutError(f"not done within {budget_seconds:g} s")
    return task.result()


async def to_its_end(coroutine: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Run *coroutine* for at most *seconds*, for a caller that is being cancelled and will re-raise that.

    It runs in a task of its own, which cancellations of the caller, anyio's scopes included, don't reach.
    """
    task = asyncio.create_task(coroutine)
    await _ended(task, seconds)
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


async def _ended(task: asyncio.Task[Any], seconds: float) -> asyncio.CancelledError | None:
    """Wait for the end of *task*, cancelling it after *seconds*; return the caller's own cancellation, if any."""
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
        except RuntimeError:  # anyio is imported, but doesn't run this loop
            return _NoShield()
    return _NoShield()


class _NoShield:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None
