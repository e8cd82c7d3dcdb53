"""A cache keyed by texts, bounded in number and in bytes."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

V = TypeVar("V")

#: Of one memory. A text that needs more than a quarter of it is not remembered: it would push out all others.
MOST_BYTES: Final = 8 * 2**20


class Memory(Generic[V]):
    """Values by key; the older half goes when there are too many, or when their texts are too long together.

    It has no lock, and needs none: each step is one of a dictionary's own, and whatever two threads make of the count,
    forgetting counts anew. Frequent readers use ``memory.kept``.

    Attributes:
        kept: the values by key; to be read only.
        size_bytes: of the texts that are kept.
    """

    __slots__ = ("_most", "_most_bytes", "_sizes", "kept", "size_bytes")

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._sizes: dict[Hashable, int] = {}
        self.kept: dict[Hashable, V] = {}
        self.size_bytes = 0

    def keep(self, key: Hashable, value: V, *texts: str) -> V:
        """Remember *value*, which is found by *key* and costs *texts*; return it."""
        size = sum(map(sys.getsizeof, texts))
        if size * 4 > self._most_bytes:
            return value
        self.kept[key], self._sizes[key] = value, size
        self.size_bytes += size
        while len(self.kept) > self._most or self.size_bytes > self._most_bytes:
            self._forget()
        return value

    def _forget(self) -> None:
        oldest = list(self._sizes)
        for key in oldest[: len(oldest) // 2 + 1]:
            self.kept.pop(key, None)
            self._sizes.pop(key, None)
        self.size_bytes = sum(list(self._sizes.values()))
