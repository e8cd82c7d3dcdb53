"""The idle connections of a pool, first in, first out."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from sqlalchemy.util.queue import Empty, Full, QueueCommon


class IdleConnections(QueueCommon[Any]):
    """Replaces SQLAlchemy's queue, in which callers wait: ours wait in a line of their own, ``waiting_line.py``."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self.queue: deque[Any] = deque()
        self.take = self.queue.pop if use_lifo else self.queue.popleft
        # Reentrant: the garbage collector may return a connection in a thread that already holds the lock.
        self._lock = threading.RLock()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self.take()
        except IndexError:
            pass
        raise Empty

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        with self._lock:
            if self.maxsize <= 0 or len(self.queue) < self.maxsize:
                self.queue.append(item)
                return
        raise Full

    def get_nowait(self) -> Any:
        return self.get(False)

    def put_nowait(self, item: Any) -> None:
        self.put(item, False)

    def qsize(self) -> int:
        return len(self.queue)

    def empty(self) -> bool:
        return not self.queue

    def full(self) -> bool:
        return 0 < self.maxsize <= len(self.queue)
