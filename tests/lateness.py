"""How late a busy machine is, for tests that something comes back in time: what others take is not held against it."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

_BEAT_SECONDS = 0.02


class Lateness:
    """Sleeps in short beats beside a block, and adds up by how much they were longer.

    A thread that computes in Python makes the beats no later than a few milliseconds; another process that has the
    processor does.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        before = time.monotonic()
        while not self._over.wait(_BEAT_SECONDS):
            now = time.monotonic()
            self.seconds += max(0.0, now - before - _BEAT_SECONDS)
            before = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
