"""The attempts of a retry loop that the caller writes, async; twin: ``mongo_attempts``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from prefiq_db.bridge import spawn
from prefiq_db.core import AttemptCore, Attempts
from prefiq_db.errors import PrefiqDbError
from prefiq_db.mongo.mongo_transaction_async import AsyncMongoTransaction

if TYPE_CHECKING:
    from prefiq_db.mongo.mongo_core import MongoCore


class AsyncMongoAttemptLoop:
    """Iterates over attempts until one succeeds; if none does, raises the last error.

    Don't ``return`` or ``break`` inside the block: that leaves the loop even if COMMIT fails.
    """

    def __init__(self, loop: Attempts[MongoCore]) -> None:
        self._loop = loop

    def __iter__(self) -> Iterator[AsyncMongoAttempt]:
        try:
            while (attempt := self._loop.next()) is not None:
                yield AsyncMongoAttempt(attempt)
        except GeneratorExit:
            self._loop.left()
            raise

    async def __aiter__(self) -> AsyncIterator[AsyncMongoAttempt]:
        for attempt in self:
            yield attempt


class AsyncMongoAttempt:
    """One attempt: ``async with attempt as tx:``. The block suppresses its error if another attempt follows."""

    def __init__(self, core: AttemptCore[MongoCore]) -> None:
        self._core = core

    @property
    def number(self) -> int:
        """The number of this attempt; the first is 1."""
        return self._core.number

    async def __aenter__(self) -> AsyncMongoTransaction:
        return await spawn(self._core.enter, lambda tx: AsyncMongoTransaction(self._core.loop.core, tx))

    async def __aexit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> bool:
        try:
            return await spawn(self._core.exit, exc)
        except BaseException as error:
            if not isinstance(error, PrefiqDbError) and not self._core.is_over:  # interrupted before its first line
                await spawn(self._core.abandon)
            raise
