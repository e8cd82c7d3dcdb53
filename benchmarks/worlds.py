"""The two worlds: how contenders are opened, run and counted, with threads or with tasks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from typing import Any, TypeAlias

from benchmarks import workload as w
from benchmarks.contenders import Operations
from benchmarks.contenders.registry import async_contenders, sync_contenders
from benchmarks.measuring import Turn, in_tasks, in_threads, one_after_another, one_after_another_async
from benchmarks.places import Place
from prefiq_db.testing import WireCounter
from prefiq_db.testing.machine import LOOPBACK

Opened: TypeAlias = Mapping[str, Operations]
_COUNTED = (w.POINT, w.SELECT, w.INSERT, w.BUILT, w.TRANSACTION, w.BUILT_TRANSACTION, w.MANY_ROWS)
_WARM_UP_CALLS = 8  # psycopg prepares a statement at its fifth execution


class World(ABC):
    """Sync or async.

    Attributes:
        not_measured: the contenders that could not be opened, and why.
    """

    name: str

    def __init__(self) -> None:
        self.not_measured: dict[str, str] = {}

    @abstractmethod
    def opened(self, place: Place, names: Collection[str] = ()) -> AbstractContextManager[Opened]:
        """Give the contenders of these names, or all of them."""

    @abstractmethod
    def turn(self, call: Callable[[], Any], operation: str, calls: int) -> Turn:
        """Return what runs an operation so many times."""

    @abstractmethod
    def call(self, call: Callable[[], Any], times: int = 1) -> None:
        """Run an operation."""

    def count_round_trips(self, place: Place, names: Collection[str] = ()) -> dict[str, dict[str, int]]:
        """Return what a call costs at the wire, by contender and operation."""
        found: dict[str, dict[str, int]] = {}
        with WireCounter(LOOPBACK, place.port) as wire, self.opened(place.at_port(wire.port), names) as contenders:
            for name, operations in contenders.items():
                for operation in (each for each in _COUNTED if each in operations):
                    self.call(operations[operation], _WARM_UP_CALLS)
                    with wire.count() as count:
                        self.call(operations[operation])
                    found.setdefault(name, {})[operation] = count.round_trips
        return found

    def _is_missing(self, name: str, error: ImportError) -> None:
        self.not_measured[name] = f"{error.name} can't be imported"


class SyncWorld(World):
    name = "sync"

    @contextmanager
    def opened(self, place: Place, names: Collection[str] = ()) -> Iterator[Opened]:
        with ExitStack() as stack:
            self._threads = stack.enter_context(ThreadPoolExecutor(w.THREAD_COUNT))
            contenders: dict[str, Operations] = {}
            for name, make in sync_contenders(place.name).items():
                if names and name not in names:
                    continue
                try:
                    contenders[name] = stack.enter_context(make(place))
                except ImportError as error:
                    self._is_missing(name, error)
            yield contenders

    def turn(self, call: Callable[[], Any], operation: str, calls: int) -> Turn:
        if operation == w.THREADS:
            return in_threads(self._threads, w.THREAD_COUNT, call, calls)
        return one_after_another(call, calls)

    def call(self, call: Callable[[], Any], times: int = 1) -> None:
        for _ in range(times):
            call()


class AsyncWorld(World):
    """Everything runs in one event loop, that of *runner*."""

    name = "async"

    def __init__(self, runner: asyncio.Runner) -> None:
        super().__init__()
        self._runner = runner

    @contextmanager
    def opened(self, place: Place, names: Collection[str] = ()) -> Iterator[Opened]:
        stack = AsyncExitStack()
        try:
            yield self._runner.run(self._open(place, names, stack))
        finally:
            self._runner.run(stack.aclose())

    async def _open(self, place: Place, names: Collection[str], stack: AsyncExitStack) -> Opened:
        contenders: dict[str, Operations] = {}
        for name, make in async_contenders(place.name).items():
            if names and name not in names:
                continue
            try:
                contenders[name] = await stack.enter_async_context(make(place))
            except ImportError as error:
                self._is_missing(name, error)
        return contenders

    def turn(self, call: Callable[[], Any], operation: str, calls: int) -> Turn:
        if operation == w.TASKS:
            return in_tasks(self._runner, w.TASK_COUNT, call, calls)
        return one_after_another_async(self._runner, call, calls)

    def call(self, call: Callable[[], Any], times: int = 1) -> None:
        async def several() -> None:
            for _ in range(times):
                await call()

        self._runner.run(several())
