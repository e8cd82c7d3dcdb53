"""A stream of rows for tasks; twin: ``stream_sync``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from operator import length_hint
from typing import Any, Generic, Self, TypeVar

from prefiq_db.bridge import spawn
from prefiq_db.core import ReadStream

T = TypeVar("T")


class AsyncStream(Generic[T]):
    """The rows of one query, read in batches: ``async with db.stream("select ...") as rows:``, then ``async for``.

    It gives each row once, to whoever asks. One task at a time may use it.
    """

    def __init__(self, core: ReadStream) -> None:
        self._core = core
        # The current batch, what is left of it, and the iterator that makes rows of that and hands them out.
        self._batch: list[Any] = []
        self._left: Iterator[Any] = iter(self._batch)
        self._rows: Iterator[T] = self._left

    async def __aenter__(self) -> Self:
        try:
            await spawn(self._core.open)
        except BaseException as error:
            await self._clean_up()
            self._core.hush(error)
            raise
        return self

    async def __aexit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        self._batch.clear()
        try:
            await spawn(self._core.close, exc)
        except BaseException:
            await self._clean_up()
            raise

    async def _clean_up(self) -> None:
        if not self._core.is_over:  # interrupted before its first line
            await spawn(self._core.abandon)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        for row in self._rows:
            return row
        if await self._fetch():
            return next(self._rows)
        raise StopAsyncIteration

    def batches(self) -> AsyncIterator[list[T]]:
        """Return an iterator over lists of rows; only the last one may have fewer than ``batch_size``."""
        return _Batches(self)

    async def _next_batch(self) -> list[T] | None:
        if length_hint(self._left) or await self._fetch():
            return self._rest()
        return None

    def _rest(self) -> list[T]:
        """Return what is left of the batch, which is no longer ours."""
        batch, left, rows = self._batch, self._left, self._rows
        self._take([], None)
        return batch if rows is left and length_hint(left) == len(batch) else list(rows)

    async def _fetch(self) -> bool:
        """Fetch the next batch; return whether there was one."""
        self._take([], None)  # before the wait: the rows that were handed out need not be kept until it is over
        try:
            batch, make_row = await spawn(self._core.next_batch)
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


class _Batches(Generic[T]):
    """An iterator that needs no end of its own, as an async generator would."""

    def __init__(self, stream: AsyncStream[T]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        batch = await self._stream._next_batch()
        if batch is None:
            raise StopAsyncIteration
        return batch
