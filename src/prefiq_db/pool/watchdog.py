"""One thread that checks the connections of all databases; started with the first database, ended with the last."""

from __future__ import annotations

import threading
import time
import weakref
from typing import Final

from prefiq_db.forks import in_child, renewed
from prefiq_db.pool.watcher import ConnectionWatcher

# How often to check, as a share of the shortest leak_after_seconds, within these bounds.
_SHARE: Final = 0.1
_BETWEEN_SECONDS: Final = (0.05, 5.0)


class Watchdog:
    """Checks periodically, in one thread, however many checkouts there are."""

    def __init__(self) -> None:
        self._watchers: weakref.WeakSet[ConnectionWatcher] = weakref.WeakSet()
        self._lock = renewed(self, "_lock")
        self._wake = renewed(self, "_wake", threading.Event)
        self._thread: threading.Thread | None = None
        in_child(self, Watchdog._forget_thread)

    def watch(self, watcher: ConnectionWatcher) -> None:
        """Check *watcher* from now on."""
        with self._lock:
            self._watchers.add(watcher)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="prefiq-db-watchdog", daemon=True)
                self._thread.start()
            self._wake.set()

    def forget(self, watcher: ConnectionWatcher) -> None:
        """Stop checking *watcher*; after the last one, the thread ends."""
        with self._lock:
            self._watchers.discard(watcher)
            self._wake.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                watchers = list(self._watchers)
                if not watchers:
                    self._thread = None
                    return
                wake = self._wake
            now = time.perf_counter()
            for watcher in watchers:
                watcher.look(now)
            shortest = min(watcher.leak_after_seconds for watcher in watchers)
            del watcher, watchers  # so that a database without other references can be collected
            least, most = _BETWEEN_SECONDS
            wake.wait(min(most, max(least, shortest * _SHARE)))
            wake.clear()

    def _forget_thread(self) -> None:
        """Start anew in a forked child, where the thread does not exist."""
        self._thread = None


watchdog = Watchdog()
