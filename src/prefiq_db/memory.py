"""A cache keyed by texts, bounded in number and in bytes."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

V = TypeVar("V")

#: The limit of one cache. A text that needs more than a quarter of it is not cached: it would evict all others.
MOST_BYTES: Final = 8 * 2**20


class Memory(Generic[V]):
    """Values by key; the older half is evicted when there are too many, or their texts are too long in total.

    It needs no lock: each step is an atomic operation of a dict, and if two threads get the size wrong, the next
    eviction recomputes it. Frequent readers use ``memory.kept``.

    Attributes:
        kept: the values by key; only read it.
        size_bytes: the size of the texts of all values.
    """

    __slots__ = ("_most", "_most_bytes", "_sizes", "kept", "size_bytes")

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._sizes: dict[Hashable, int] = {}
        self.kept: dict[Hashable, V] = {}
        self.size_bytes = 0

    def keep(self, key: Hashable, value: V, *texts: str) -> V:
        """Cache *value* under *key*, with the size of *texts* as its cost; return it."""
        size = sum(map(sys.getsizeof, texts))
        if size * 4 > self._most_bytes:
            return value
        self.size_bytes += size - self._sizes.get(key, 0)
        self.kept[key], self._sizes[key] = value, size
        while len(self.kept) > self._most or self.size_bytes > self._most_bytes:
            self._forget()
        return value

    def _forget(self) -> None:
        oldest = list(self._sizes)
        for key in oldest[: len(oldest) // 2 + 1]:
            self.kept.pop(key, None)
            self._sizes.pop(key, None)
        self.size_bytes = sum(list(self._sizes.values()))
