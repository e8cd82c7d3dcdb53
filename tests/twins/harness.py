"""The behaviour once, run for both worlds.

A test body is ``async def test_x(db)`` and awaits every verb. In the async world it gets a real ``AsyncDatabase``. In
the sync world it gets a ``Database`` behind a facade whose verbs are coroutines that call it at once, in the same
thread; nothing in them ever suspends, so such a body runs to its end without any event loop, see :func:`drive`.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.01


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really waits to its end, without any event loop; return its result.

    Raises:
        RuntimeError: if it waits for something: then it isn't of the sync world.
    """
    try:
        waited_for = coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError(f"in the sync world nothing may wait, but the test waits for {waited_for!r}")


def _settled(result: Any) -> Any:
    return drive(result) if inspect.iscoroutine(result) else result


def _adapted(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make a sync function of one that may be async, and wrap the transaction if it gets one."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return _settled(fn(*map(facade, args), **kwargs))

    return call


# --- the sync world, spelled as coroutines -------------------------------------------------------


class SyncFacade:
    """A ``Database``, ``Transaction`` or ORM session whose verbs can be awaited.

    Names it wasn't taught are refused, so that a new verb doesn't slip through untested.
    """

    awaited: frozenset[str] = frozenset()  # methods that become coroutines
    plain: frozenset[str] = frozenset()  # attributes and methods that are the same in both worlds
    scopes: frozenset[str] = frozenset()  # methods that return a context manager

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        if name in self.plain:
            return getattr(self._wrapped, name)
        if name in self.awaited:
            return self._as_coroutine(getattr(self._wrapped, name))
        if name in self.scopes:
            make = getattr(self._wrapped, name)
            return lambda *args, **kwargs: _scope(make(*args, **kwargs))
        raise AttributeError(f"{type(self).__name__} doesn't know {name}: add it to awaited, plain or scopes")

    @staticmethod
    def _as_coroutine(method: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def verb(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return verb

    async def __aenter__(self) -> SyncFacade:
        entered: SyncFacade = facade(self._wrapped.__enter__())
        return entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        return self._wrapped.__exit__(kind, error, traceback)


def _scope(wrapped: Any) -> Any:
    """Return an async context manager: a facade for what has verbs before it is entered, too."""
    return wrapper(wrapped) if (wrapper := _wrapper(wrapped)) else SyncScope(wrapped)


class SyncScope:
    """A sync context manager as an async one; it can still be used as a sync one."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __enter__(self) -> Any:
        return facade(self._wrapped.__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        return self._wrapped.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        return self.__exit__(kind, error, traceback)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


class SyncAttempts:
    """The attempts of a sync database, for ``for`` and ``async for``."""

    def __init__(self, wrapped: Iterable[Any]) -> None:
        self._wrapped = wrapped

    def __iter__(self) -> Iterator[SyncScope]:
        return map(SyncScope, self._wrapped)

    async def __aiter__(self) -> AsyncIterator[SyncScope]:
        for attempt in self:
            yield attempt


_VERBS = frozenset(
    {
        "fetch_all",
        "fetch_one",
        "fetch_exactly_one",
        "fetch_value",
        "execute",
        "execute_many",
        "batch",
        "bulk_insert",
        "upsert",
    }
)


class SyncDatabaseFacade(SyncFacade):
    """A ``Database`` with the face of an ``AsyncDatabase``."""

    awaited = _VERBS | {"open", "close", "ping", "test_connection", "health", "resolve_outcome", "mark"}
    plain = frozenset({"name", "settings", "hooks", "stats", "engine", "engine_for", "is_async"})
    scopes = frozenset({"transaction", "override", "session", "stream", "expect", "no_n_plus_one"})

    async def run_in_transaction(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self._wrapped.run_in_transaction(_adapted(fn), *args, **options)

    def transactional(self, fn: Callable[..., Any] | None = None, **options: Any) -> Any:
        if fn is None:
            return lambda late: self.transactional(late, **options)
        return self._as_coroutine(self._wrapped.transactional(_adapted(fn), **options))

    def attempts(self, **options: Any) -> SyncAttempts:
        return SyncAttempts(self._wrapped.attempts(**options))

    def using(self, **overrides: Any) -> SyncDatabaseFacade:
        return SyncDatabaseFacade(self._wrapped.using(**overrides))


class SyncTransactionFacade(SyncFacade):
    """A ``Transaction`` with the face of an ``AsyncTransaction``."""

    awaited = _VERBS
    plain = frozenset({"outcome", "callback_errors", "connection", "token", "rollback"})
    scopes = frozenset({"transaction", "session", "stream", "bind"})

    def on_commit(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        self._wrapped.on_commit(_adapted(fn))
        return fn

    def on_rollback(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        self._wrapped.on_rollback(_adapted(fn))
        return fn


class SyncStreamFacade(SyncFacade):
    """A ``Stream`` with the face of an ``AsyncStream``."""

    def __aiter__(self) -> SyncStreamFacade:
        return self

    async def __anext__(self) -> Any:
        for row in self._wrapped:
            return row
        raise StopAsyncIteration

    async def batches(self) -> AsyncIterator[list[Any]]:
        for batch in self._wrapped.batches():
            yield batch


class SyncSessionFacade(SyncFacade):
    """An ORM ``Session`` with the face of an ``AsyncSession``."""

    awaited = frozenset(
        {
            "execute",
            "scalar",
            "scalars",
            "get",
            "flush",
            "commit",
            "rollback",
            "refresh",
            "delete",
            "merge",
            "close",
            "connection",
        }
    )
    plain = frozenset({"add", "add_all", "expunge", "new", "dirty", "deleted", "in_transaction"})
    scopes = frozenset({"begin", "begin_nested"})


def facade(value: Any) -> Any:
    """Wrap what has verbs; return anything else as it is."""
    return wrapper(value) if (wrapper := _wrapper(value)) else value


_further: list[tuple[type, type[SyncFacade]]] = []


def add_facade(kind: type, wrapper: type[SyncFacade]) -> None:
    """Wrap values of *kind* in *wrapper*, too."""
    _further.append((kind, wrapper))


def _wrapper(value: Any) -> type[SyncFacade] | None:
    from sqlalchemy.orm import Session

    from prefiq_db import Database, Transaction
    from prefiq_db.faces.stream_sync import Stream

    for kind, wrapper in (
        (Database, SyncDatabaseFacade),
        (Transaction, SyncTransactionFacade),
        (Stream, SyncStreamFacade),
        (Session, SyncSessionFacade),
        *_further,
    ):
        if isinstance(value, kind):
            return wrapper
    return None


def make_database(world: str, url: str, **fields: Any) -> Any:
    """Return a database of *world* that isn't open yet, with verbs to be awaited."""
    from prefiq_db import AsyncDatabase, Database

    return AsyncDatabase(url, **fields) if world == "async" else SyncDatabaseFacade(Database(url, **fields))


async def connect_once(database: Any) -> None:
    """Make the first connection of a database of either world, and leave it in the pool."""
    if database.is_async:
        async with database.engine.connect():
            pass
    else:
        with database.engine.connect():
            pass


# --- two workers at once -------------------------------------------------------------------------


class Event(Protocol):
    """Something that one worker waits for and another one sets."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...

    async def wait(self) -> None:
        """Wait until it is set; raise TimeoutError when that takes too long for a test."""


class Harness(Protocol):
    """What a test of both worlds needs besides the database."""

    world: str

    def event(self) -> Event:
        """Return a new event."""

    async def together(
        self,
        *workers: Callable[[], Awaitable[Any]],
        return_exceptions: bool = False,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> list[Any]:
        """Run workers at the same time, as threads or as tasks; return their results in order.

        All of them are waited for. Then the first error is raised, or returned in its worker's place.
        """

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Ask *condition* again and again until it holds: that somebody waits for a lock, say, on the server's word."""


def _first_error(results: list[Any], return_exceptions: bool) -> list[Any]:
    if not return_exceptions:
        for result in results:
            if isinstance(result, BaseException):
                raise result
    return results


class SyncEvent:
    def __init__(self) -> None:
        self._event = threading.Event()
        self.set = self._event.set
        self.is_set = self._event.is_set

    async def wait(self) -> None:
        if not self._event.wait(_PATIENCE_SECONDS):
            raise TimeoutError(f"nobody set the event within {_PATIENCE_SECONDS:g} s")


class SyncHarness:
    """Workers are threads, and waiting blocks."""

    world = "sync"

    def event(self) -> Event:
        return SyncEvent()

    async def together(
        self,
        *workers: Callable[[], Awaitable[Any]],
        return_exceptions: bool = False,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> list[Any]:
        results: list[Any] = [TimeoutError(f"a worker ran longer than {patience_seconds:g} s")] * len(workers)

        def run(index: int, worker: Callable[[], Awaitable[Any]]) -> None:
            try:
                results[index] = _settled(worker())
            except BaseException as error:
                results[index] = error

        threads = [threading.Thread(target=run, args=job, daemon=True) for job in enumerate(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(patience_seconds)
        return _first_error(results, return_exceptions)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not await condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the condition did not hold within {_PATIENCE_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)  # noqa: ASYNC251 - there is no loop to block


class AsyncEvent:
    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.set = self._event.set
        self.is_set = self._event.is_set

    async def wait(self) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self._event.wait()


class AsyncHarness:
    """Workers are tasks, and waiting lets the others run."""

    world = "async"

    def event(self) -> Event:
        return AsyncEvent()

    async def together(
        self,
        *workers: Callable[[], Awaitable[Any]],
        return_exceptions: bool = False,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> list[Any]:
        async def run(worker: Callable[[], Awaitable[Any]]) -> Any:
            async with asyncio.timeout(patience_seconds):
                return await worker()

        results: list[Any] = await asyncio.gather(*map(run, workers), return_exceptions=True)
        return _first_error(results, return_exceptions)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not await condition():  # noqa: ASYNC110 - a server can't set an event of ours
                await asyncio.sleep(_POLL_SECONDS)


def make_harness(world: str) -> Harness:
    """Return the harness of *world*."""
    return AsyncHarness() if world == "async" else SyncHarness()
