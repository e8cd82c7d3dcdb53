"""Watch the pool: waits, uses, closed connections, and connections that are held for too long.

SQLAlchemy fires no event while a caller waits for a connection, or when the wait times out, so the pool itself reports.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from prefiq_db.dialects.session import SessionState
from prefiq_db.events import (
    ConnectionCheckedIn,
    ConnectionCheckedOut,
    ConnectionLeaked,
    ConnectionLost,
    ConnectionOpened,
    ConnectionUnleaked,
    PoolTimedOut,
)
from prefiq_db.forks import in_child, renewed
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.histogram import Histogram, drained
from prefiq_db.origin import readable
from prefiq_db.reports import Holder, PoolStats
from prefiq_db.tags import NO_TAGS

logger = logging.getLogger("prefiq_db.leaks")


class ConnectionWatcher:
    """Watches the connections of one pool.

    Args:
        origin: that of the pool of the settings' database, which counts the leaks of all its tenants; ``None``: this is
            it.
    """

    def __init__(
        self, database: str, hooks: Hooks, leak_after_seconds: float, origin: ConnectionWatcher | None = None
    ) -> None:
        self._leaks = weakref.ref(origin or self)
        self.database = database
        self.hooks = hooks
        self.leak_after_seconds = leak_after_seconds
        self.wants_checkouts = False
        self._on_first_checkout: Callable[[ConnectionWatcher], None] | None = None
        self.timeout_count = 0
        self.opened_count = 0
        self.leak_count = 0
        self.lost_counts: Counter[str] = Counter()
        self._lock = renewed(self, "_lock")
        self._wait, self._use, self._create = Histogram(), Histogram(), Histogram()
        self.waits: list[float] = []
        self.uses: list[float] = []
        self._states: weakref.WeakSet[SessionState] = weakref.WeakSet()
        hooks.on_change(self._look_up)
        in_child(self, ConnectionWatcher._forget_holders)

    # --- called by the pool ----------------------------------------------------------------------

    def know(self, state: SessionState) -> None:
        with self._lock:
            self._states.add(state)

    def waited_in_vain(self, seconds: float) -> None:
        with self._lock:
            self.timeout_count += 1
        if PoolTimedOut in self.hooks.wanted:
            self.hooks.emit(PoolTimedOut(self.database, seconds))

    def opened(self, seconds: float) -> None:
        with self._lock:
            self.opened_count += 1
            self._create.add(seconds)
        if ConnectionOpened in self.hooks.wanted:
            self.hooks.emit(ConnectionOpened(self.database, seconds))

    def lost(self, reason: str) -> None:
        with self._lock:
            self.lost_counts[reason] += 1
        if ConnectionLost in self.hooks.wanted:
            self.hooks.emit(ConnectionLost(self.database, reason))

    def _look_up(self) -> None:
        """Note whether the pool has to report each checkout: while there are listeners, or until the first checkout."""
        told = not self.hooks.wanted.isdisjoint((ConnectionCheckedOut, ConnectionCheckedIn))
        self.wants_checkouts = told or self._on_first_checkout is not None

    def start_with(self, start: Callable[[ConnectionWatcher], None]) -> None:
        """Call *start* at the next checkout, so that a database that is never used costs no thread."""
        self._on_first_checkout = start
        self._look_up()

    def _forget_holders(self) -> None:
        """Forget, in a forked child, the holders of the parent's connections."""
        for _, state in self._held():
            state.checkout.checked_out_at = 0.0

    def checked_out(self, state: SessionState) -> None:
        if self._on_first_checkout is not None:
            start, self._on_first_checkout = self._on_first_checkout, None
            start(self)
            self._look_up()
        if ConnectionCheckedOut in self.hooks.wanted:
            self.hooks.emit(ConnectionCheckedOut(self.database, state.checkout.wait_seconds))

    def checked_in(self, state: SessionState, seconds: float) -> None:
        if state.checkout.leaked:
            self._unleaked(state, seconds)
        if ConnectionCheckedIn in self.hooks.wanted:
            self.hooks.emit(ConnectionCheckedIn(self.database, seconds))

    def fold(self) -> None:
        """Count what the pool has noted: noting takes no lock, counting does."""
        with self._lock:
            self._wait.add_all(drained(self.waits))
            self._use.add_all(drained(self.uses))

    # --- leaks -----------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Report, once each, every connection that has been held for too long.

        Neither while a statement runs, which may wait for a lock, nor right after it: a leaked connection does nothing.
        """
        for since, state in self._held():
            checkout = state.checkout
            if state.statement.sent_at:
                checkout.excused_at = now
            elif now - max(since, checkout.excused_at) >= self.leak_after_seconds and not checkout.leaked:
                checkout.leaked = True
                self._leaked(state, now - since, collected=False)

    def collected(self, state: SessionState) -> None:
        """Report a connection, or a transaction on it, that was garbage-collected unclosed."""
        now, since = time.perf_counter(), state.checkout.checked_out_at
        # An interruption may come before the time is noted, or after it is forgotten: then it was taken just now.
        self._leaked(state, now - (since or now), collected=True)

    def _leaked(self, state: SessionState, age: float, *, collected: bool) -> None:
        # The pool of a tenant may be gone tomorrow, and a count must never fall.
        counts = self._leaks() or self
        with counts._lock:
            counts.leak_count += 1
        origin, worker = readable(state.checkout.line), _worker_name(state.checkout.worker)
        what = "was lost unclosed" if collected else "has not come back"
        logger.warning(
            "leak: a connection of database %s, taken %.1f s ago by %s at %s, %s; last statement: %s",
            self.database,
            age,
            worker,
            origin,
            what,
            state.statement.summary or "none",
            extra={
                "database": self.database,
                "age_seconds": round(age, 3),
                "worker": worker,
                "source": None if origin is None else str(origin),
                "summary": state.statement.summary,
            },
        )
        if ConnectionLeaked in self.hooks.wanted:
            self.hooks.emit(ConnectionLeaked(self.database, age, origin, worker, state.statement.summary, collected))

    def _unleaked(self, state: SessionState, age: float) -> None:
        origin = readable(state.checkout.line)
        logger.warning(
            "no leak after all: the connection of database %s taken at %s came back after %.1f s",
            self.database,
            origin,
            age,
            extra={
                "database": self.database,
                "age_seconds": round(age, 3),
                "source": None if origin is None else str(origin),
            },
        )
        if ConnectionUnleaked in self.hooks.wanted:
            self.hooks.emit(ConnectionUnleaked(self.database, age, origin))

    # --- reading ---------------------------------------------------------------------------------

    def holders(self) -> tuple[Holder, ...]:
        """Return the current holders of connections, the oldest first."""
        now = time.perf_counter()
        held = sorted(self._held(), key=lambda item: item[0])
        return tuple(self._holder(state, now - since) for since, state in held)

    def _held(self) -> list[tuple[float, SessionState]]:
        """Return the states of the connections that are checked out, and since when.

        A reader scans all states, so that a checkout only has to note the time. Checkouts and checkins go on meanwhile,
        so each time is read once.
        """
        with self._lock:
            states = list(self._states)
        return [(since, state) for state in states if (since := state.checkout.checked_out_at)]

    def table(self) -> str:
        """Return the holders of the connections, one a line, for the message of a pool timeout."""
        return "\n".join(
            f"  {who.age_seconds:8.1f} s  {who.worker}  {who.summary or 'no statement yet'}  at {who.origin}"
            f"{_shown(who.tags)}"
            for who in self.holders()
        )

    def _holder(self, state: SessionState, age: float) -> Holder:
        origin = readable(state.checkout.line)
        call = state.statement.call
        return Holder(
            database=self.database,
            age_seconds=age,
            worker=_worker_name(state.checkout.worker),
            origin=None if origin is None else str(origin),
            summary=state.statement.summary,
            leaked=state.checkout.leaked,
            tags=NO_TAGS if call is None else call.tags,
        )

    def pool_stats(self, pool: Any, size: int, max_overflow: int) -> PoolStats:
        self.fold()
        with self._lock:
            return PoolStats(
                size=size,
                max_overflow=max_overflow,
                checked_out=pool.checkedout(),
                idle=pool.checkedin(),
                pending=pool.waiting_count(),
                timeout_count=self.timeout_count,
                opened_count=self.opened_count,
                lost=dict(self.lost_counts),
                wait=self._wait.read(),
                use=self._use.read(),
                create=self._create.read(),
            )


def _shown(tags: Mapping[str, str]) -> str:
    return "".join(f"  {key}={value}" for key, value in tags.items())


def _worker_name(worker: Any) -> str:
    """Return what a report calls a task of this name, or the thread with this number."""
    if isinstance(worker, int):
        names = (thread.name for thread in threading.enumerate() if thread.ident == worker)
        return f"thread {next(names, worker)}"
    return f"task {worker}" if worker is not None else "nobody known"
