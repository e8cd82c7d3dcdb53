"""A stream of rows for threads; twin: ``stream_async``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Any, Generic, Self, TypeVar

from prefiq_db.core import ReadStream
from prefiq_db.leaving import surely

T = TypeVar("T")


class Stream(Generic[T]):
    """The rows of one query, read in batches: ``with db.stream("select ...") as rows: for row in rows: ...``.

    It gives each row once, to whoever asks. One thread or task at a time may use it.
    """

    _watch: object = None

    def __init__(self, core: ReadStream) -> None:
        self._core = core
        # The current batch, what is left of it, and the iterator that makes rows of that and hands them out.
        self._batch: list[Any] = []
        self._left: Iterator[Any] = iter(self._batch)
        self._rows: Iterator[T] = self._left

    def __enter__(self) -> Self:
        try:
            self._core.open()
        except BaseException as error:
            self._core.hush(error)
            raise
        return self

    @surely
    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        # An iterator over it may still be in use: it ends here, too.
        self._batch.clear()
        try:
            self._core.close(exc)
        finally:
            self._watch = None if self._core.is_over else self._watch

    @property
    def _is_begun(self) -> bool:
        return self._core.is_begun

    def _finish(self) -> None:
        self._core.abandon()

    def __iter__(self) -> Iterator[T]:
        while True:
            yield from self._rows
            if not self._fetch():
                return

    def __next__(self) -> T:
        for row in self._rows:
            return row
        if self._fetch():
            return next(self._rows)
        raise StopIteration

    def batches(self) -> Iterator[list[T]]:
        """Return an iterator over lists of rows; only the last one may have fewer than ``batch_size``."""
        while length_hint(self._left) or self._fetch():
            yield self._rest()

    def _rest(self) -> list[T]:
        """Return what is left of the batch, which is no longer ours."""
        batch, left, rows = self._batch, self._left, self._rows
        self._take([], None)
        return batch if rows is left and length_hint(left) == len(batch) else list(rows)

    def _fetch(self) -> bool:
        """Fetch the next batch; return whether there was one."""
        self._take([], None)  # before the wait: the rows that were handed out need not be kept until it is over
        try:
            batch, make_row = self._core.next_batch()
        except BaseException as error:
            self._core.hush(error)
            raise
        self._take(batch, make_row)
        return bool(batch)

    def _take(self, batch: list[Any], make_row: Callable[[Any], Any] | None) -> None:
        """Hand out *batch* from now on."""
        self._batch = batch
        self._left = iter(batch)
        self._rows = self._left if make_row is None else map(make_row, self._left)
