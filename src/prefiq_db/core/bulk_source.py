"""The given rows by chunks, and whether another attempt may have them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prefiq_db.execution.given_rows import GivenRows, Values


class BulkSource:
    """The given rows by chunks, and whether they can be had again for another attempt.

    The first chunk is kept until the second one is taken, so a connection that turns out to be dead costs nothing.
    After that, only a sequence can be gone through again: what a generator has given is gone.
    """

    def __init__(self, make: Callable[[], GivenRows]) -> None:
        self._make = make
        self.rows = make()
        self._head: list[Values] | None = self.rows.next_chunk()
        self.has_rows = bool(self._head)
        self.keys = self.rows.keys

    def may_repeat(self) -> bool:
        return self._head is not None or self.rows.is_sequence

    def chunks(self) -> Iterator[tuple[int, list[Values]]]:
        """Yield the index of each chunk's first row, and its rows."""
        if self._head is None:
            self.rows = self._make()
            self._head = self.rows.next_chunk()
        head = self._head
        yield 0, head
        while True:
            first = self.rows.taken
            # Before the caller's code runs: a generator that has raised would end at once when asked again, and the
            # first chunk would go in alone.
            self._head = None
            chunk = self.rows.next_chunk()
            if not chunk:
                break
            yield first, chunk
        if first == len(head):
            self._head = head  # there are no other rows
