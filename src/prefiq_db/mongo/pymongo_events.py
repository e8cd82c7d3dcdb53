"""PyMongo's listeners: commands go to the observer, connections to the watcher of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any, Final

from pymongo import monitoring

from prefiq_db.dialects.session import SessionState
from prefiq_db.forks import renewed
from prefiq_db.mongo.command_observer import CommandObserver
from prefiq_db.mongo.running_calls import running, take_state, worker_name
from prefiq_db.origin import application_line
from prefiq_db.pool.watcher import ConnectionWatcher

_FOLD_AT: Final = 512
# PyMongo's reasons to close a connection, in our words; the others don't lose one.
_LOST: Final[Mapping[str, str]] = {
    monitoring.ConnectionClosedReason.STALE: "invalidated",
    monitoring.ConnectionClosedReason.IDLE: "age",
    monitoring.ConnectionClosedReason.ERROR: "dead",
}


class CommandEvents(monitoring.CommandListener):
    """Passes commands on to the observer."""

    def __init__(self, observer: CommandObserver) -> None:
        self._observer = observer

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self._observer.started(event.command_name, event.command, event.request_id)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self._observer.succeeded(event.request_id, event.duration_micros / 1e6, event.reply)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._observer.failed(event.request_id, event.duration_micros / 1e6, event.failure)


class PoolEvents(monitoring.ConnectionPoolListener):
    """Tells the watcher of waits, uses and losses; it is the pool that ``stats()`` counts, too."""

    def __init__(self, watcher: ConnectionWatcher) -> None:
        self._watcher = watcher
        self._states: dict[tuple[Any, int], SessionState] = {}
        self._waiting = 0
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
        return max(0, self._waiting)

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
        with self._lock:
            self._waiting += 1

    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        with self._lock:
            self._waiting -= 1
        if event.reason == monitoring.ConnectionCheckOutFailedReason.TIMEOUT:
            self._watcher.waited_in_vain(event.duration or 0.0)

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        with self._lock:
            self._waiting -= 1
        state = self._states.get((event.address, event.connection_id))
        if state is None:
            return
        checkout, waited = state.checkout, event.duration or 0.0
        checkout.checked_out_at, checkout.wait_seconds = perf_counter(), waited
        checkout.worker = worker_name()
        if running.get() is None:
            checkout.line = application_line()  # a verb returns what it takes, so needs no line in a leak report
        self._watcher.waits.append(waited)
        if self._watcher.wants_checkouts:
            self._watcher.checked_out(state)
        take_state(state)

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:
        state = self._states.get((event.address, event.connection_id))
        note = running.get()
        if note is not None:
            note.state = None
        if state is None or not state.checkout.checked_out_at:
            return
        seconds = perf_counter() - state.checkout.checked_out_at
        state.checkout.checked_out_at = 0.0
        watcher = self._watcher
        watcher.uses.append(seconds)
        watcher.checked_in(state, seconds)
        if len(watcher.uses) >= _FOLD_AT:
            watcher.fold()
        state.checkout.reset()
        state.statement.reset()  # nobody uses the rest of it

    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None:
        """Nothing to count."""

    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None:
        """Nothing to count."""

    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None:
        """Each connection that is lost by it tells so itself."""

    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None:
        """Likewise."""
