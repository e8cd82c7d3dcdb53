"""PyMongo's listener of the pool: what it tells of connections goes to the watcher."""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Mapping
from threading import get_ident
from time import perf_counter
from typing import Any, Final

from pymongo import monitoring

from prefiq_db.dialects.session import SessionState
from prefiq_db.forks import renewed
from prefiq_db.mongo.running_calls import running, worker_name
from prefiq_db.origin import application_line
from prefiq_db.pool.watcher import ConnectionWatcher

_FOLD_AT: Final = 512
# PyMongo's reasons to close a connection, in our words; the others don't lose one.
_LOST: Final[Mapping[str, str]] = {
    monitoring.ConnectionClosedReason.STALE: "invalidated",
    monitoring.ConnectionClosedReason.IDLE: "age",
    monitoring.ConnectionClosedReason.ERROR: "dead",
}


class PoolEvents(monitoring.ConnectionPoolListener):
    """Tells the watcher of waits, uses and losses; it is the pool that ``stats()`` counts, too."""

    def __init__(self, watcher: ConnectionWatcher) -> None:
        self._watcher = watcher
        self._states: dict[tuple[Any, int], SessionState] = {}
        # One entry for each caller that waits: adding and removing one needs no lock.
        self._waiting: list[None] = []
        self._opened_at: dict[tuple[Any, int], float] = {}
        self._lock = renewed(self, "_lock")

    # --- for stats() -------------------------------------------------------------------------------

    def checkedout(self) -> int:
        """Return how many connections are in use."""
        with self._lock:
            return sum(1 for state in self._states.values() if state.checkout.checked_out_at)

    def checkedin(self) -> int:
        """Return how many connections wait in the pool."""
        with self._lock:
            return sum(1 for state in self._states.values() if not state.checkout.checked_out_at)

    def waiting_count(self) -> int:
        """Return how many callers wait for a connection."""
        return len(self._waiting)

    def forget_after_fork(self) -> None:
        """Forget, in a forked child, the connections of the parent and who waited for them."""
        self._states.clear()
        self._opened_at.clear()
        self._waiting.clear()

    # --- told by PyMongo ---------------------------------------------------------------------------

    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:
        self._opened_at[(event.address, event.connection_id)] = perf_counter()

    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None:
        key = (event.address, event.connection_id)
        state = SessionState(float("inf"), None)
        with self._lock:
            self._states[key] = state
        self._watcher.know(state)
        self._watcher.opened(perf_counter() - self._opened_at.pop(key, perf_counter()))

    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:
        key = (event.address, event.connection_id)
        self._opened_at.pop(key, None)
        with self._lock:
            state = self._states.pop(key, None)
        if state is not None and event.reason in _LOST:
            self._watcher.lost(_LOST[event.reason])

    def connection_check_out_started(self, event: monitoring.ConnectionCheckOutStartedEvent) -> None:
        self._waiting.append(None)

    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        if self._waiting:
            self._waiting.pop()
        if event.reason == monitoring.ConnectionCheckOutFailedReason.TIMEOUT:
            self._watcher.waited_in_vain(event.duration or 0.0)

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        if self._waiting:
            self._waiting.pop()
        state = self._states.get((event.address, event.connection_id))
        if state is None:
            return
        checkout, watcher = state.checkout, self._watcher
        note, waited = running.get(), event.duration or 0.0
        # What the last user left is overwritten, all that a document database notes: resetting it costs more.
        checkout.wait_seconds = waited
        checkout.worker = get_ident() if _get_running_loop() is None else worker_name()
        if note is None:
            checkout.line = application_line()
            state.statement.reset()
        else:
            checkout.line = None  # a verb returns what it takes, so needs no line in a leak report
            note.state = state  # its first command overwrites the statement
        checkout.checked_out_at = perf_counter()
        watcher.waits.append(waited)
        if watcher.wants_checkouts:
            watcher.checked_out(state)

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        note = running.get()
        state = None if note is None else note.state
        if note is None or state is None:
            state = self._states.get((event.address, event.connection_id))
            if state is None:
                return
        else:
            note.state = None
        checkout, watcher = state.checkout, self._watcher
        since, checkout.checked_out_at = checkout.checked_out_at, 0.0
        if not since:
            return
        seconds, uses = perf_counter() - since, watcher.uses
        uses.append(seconds)
        if checkout.leaked or watcher.wants_checkouts:
            watcher.checked_in(state, seconds)
            checkout.leaked = False
        if len(uses) >= _FOLD_AT:
            watcher.fold()

    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None:
        """Nothing to count."""

    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None:
        """Nothing to count."""

    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None:
        """Each connection that is lost by it tells so itself."""

    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None:
        """Likewise."""
