"""The attempts of a retry loop that the caller writes, sync; twin: ``mongo_attempts_async``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prefiq_db.core import AttemptCore, Attempts
from prefiq_db.leaving import surely
from prefiq_db.mongo.mongo_transaction import MongoTransaction

if TYPE_CHECKING:
    from prefiq_db.mongo.mongo_core import MongoCore


class MongoAttemptLoop:
    """Iterates over attempts until one succeeds; if none does, raises the last error.

    Don't ``return`` or ``break`` inside the block: that leaves the loop even if COMMIT fails.
    """

    def __init__(self, loop: Attempts[MongoCore]) -> None:
        self._loop = loop

    def __iter__(self) -> Iterator[MongoAttempt]:
        try:
            while (attempt := self._loop.next()) is not None:
                yield MongoAttempt(attempt)
        except GeneratorExit:
            self._loop.left()
            raise


class MongoAttempt:
    """One attempt: ``with attempt as tx:``. The block suppresses its error if another attempt follows."""

    _watch: object = None

    def __init__(self, core: AttemptCore[MongoCore]) -> None:
        self._core = core

    @property
    def number(self) -> int:
        """The number of this attempt; the first is 1."""
        return self._core.number

    def __enter__(self) -> MongoTransaction:
        return self._core.enter(lambda tx: MongoTransaction(self._core.loop.core, tx))

    @surely
    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> bool:
        try:
            return self._core.exit(exc)
        finally:
            self._watch = None if self._core.is_over else self._watch

    @property
    def _is_begun(self) -> bool:
        return self._core.tx is not None

    def _finish(self) -> None:
        self._core.abandon()
