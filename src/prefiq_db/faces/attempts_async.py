"""The attempts of a retry loop that the caller writes, async; twin: ``attempts_sync``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, TypeVar

from prefiq_db.bridge import spawn
from prefiq_db.core import AttemptCore, Attempts
from prefiq_db.errors import PrefiqDbError
from prefiq_db.transaction import Block

#: The class of ``tx``.
X = TypeVar("X")


class AsyncAttemptLoop(Generic[X]):
    """Iterates over attempts until one succeeds; if none does, raises the last error.

    Don't ``return`` or ``break`` inside the block: that leaves the loop even if COMMIT fails.
    """

    def __init__(self, loop: Attempts[Any], make: Callable[[Block], X]) -> None:
        self._loop = loop
        self._make = make

    def __iter__(self) -> Iterator[AsyncAttempt[X]]:
        try:
            while (attempt := self._loop.next()) is not None:
                yield AsyncAttempt(attempt, self._make)
        except GeneratorExit:
            self._loop.left()
            raise

    async def __aiter__(self) -> AsyncIterator[AsyncAttempt[X]]:
        for attempt in self:
            yield attempt


class AsyncAttempt(Generic[X]):
    """One attempt: ``async with attempt as tx:``. The block suppresses its error if another attempt follows."""

    def __init__(self, core: AttemptCore[Any], make: Callable[[Block], X]) -> None:
        self._core = core
        self._make = make

    @property
    def number(self) -> int:
        """The number of this attempt; the first is 1."""
        return self._core.number

    async def __aenter__(self) -> X:
        return await spawn(self._core.enter, self._make)

    async def __aexit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> bool:
        try:
            return await spawn(self._core.exit, exc)
        except BaseException as error:
            if not isinstance(error, PrefiqDbError) and not self._core.is_over:  # interrupted before its first line
                await spawn(self._core.abandon)
            raise
