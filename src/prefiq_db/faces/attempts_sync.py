"""The attempts of a retry loop that the caller writes, sync; twin: ``attempts_async``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from prefiq_db.core import AttemptCore, Attempts
from prefiq_db.leaving import surely
from prefiq_db.transaction import Block

#: The class of ``tx``.
X = TypeVar("X")


class AttemptLoop(Generic[X]):
    """Iterates over attempts until one succeeds; if none does, raises the last error.

    Don't ``return`` or ``break`` inside the block: that leaves the loop even if COMMIT fails.
    """

    def __init__(self, loop: Attempts[Any], make: Callable[[Block], X]) -> None:
        self._loop = loop
        self._make = make

    def __iter__(self) -> Iterator[Attempt[X]]:
        try:
            while (attempt := self._loop.next()) is not None:
                yield Attempt(attempt, self._make)
        except GeneratorExit:
            self._loop.left()
            raise


class Attempt(Generic[X]):
    """One attempt: ``with attempt as tx:``. The block suppresses its error if another attempt follows."""

    _watch: object = None

    def __init__(self, core: AttemptCore[Any], make: Callable[[Block], X]) -> None:
        self._core = core
        self._make = make

    @property
    def number(self) -> int:
        """The number of this attempt; the first is 1."""
        return self._core.number

    def __enter__(self) -> X:
        return self._core.enter(self._make)

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
