"""Watch the pool: waits, uses, what it threw away, and who has a connection for too long.

No event of SQLAlchemy's fires while somebody waits for a connection or waits in vain, so the pool itself tells.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from prefiq_db.dialects.base import SessionState
from prefiq_db.events import (
    ConnectionCheckedIn,
    ConnectionCheckedOut,
    ConnectionLeaked,
    ConnectionLost,
    ConnectionOpened,
    ConnectionUnleaked,
    PoolTimedOut,
)
from prefiq_db.hooks.histogram import Histogram, drained
from prefiq_db.hooks.registry import Hooks
from prefiq_db.origin import readable
from prefiq_db.reports import Holder, PoolStats

logger = logging.getLogger("prefiq_db.leaks")

# How many uses are noted before they are counted; a reader counts them at once.
_FOLD_AT: Final = 512


class ConnectionWatcher:
    """The connections of one database."""

    def __init__(self, database: str, hooks: Hooks, leak_after_seconds: float) -> None:
        self.database = database
        self.hooks = hooks
        self.leak_after_seconds = leak_after_seconds
        # Called with the first checkout, so that a database that is never used costs no thread.
        self.on_first_checkout: Callable[[ConnectionWatcher], None] | None = None
        self.pending = 0
        self.timeout_count = 0
        self.opened_count = 0
        self.leak_count = 0
        self.lost_counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._wait, self._use, self._create = Histogram(), Histogram(), Histogram()
        self._waits: deque[float] = deque()
        self._uses: deque[float] = deque()
        self._held: dict[int, SessionState] = {}

    # --- told by the pool ------------------------------------------------------------------------

    def waiting(self) -> None:
        with self._lock:
            self.pending += 1

    def waited(self) -> None:
        with self._lock:
            self.pending -= 1

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

    def checked_out(self, state: SessionState, asked_at: float) -> None:
        now = time.perf_counter()
        state.checked_out_at = now
        state.wait_seconds = state.waited_seconds = now - asked_at
        state.worker = _worker()
        self._held[id(state)] = state
        if self.on_first_checkout is not None:
            start, self.on_first_checkout = self.on_first_checkout, None
            start(self)
        if ConnectionCheckedOut in self.hooks.wanted:
            self.hooks.emit(ConnectionCheckedOut(self.database, state.wait_seconds))

    def checked_in(self, state: SessionState) -> None:
        if self._held.pop(id(state), None) is None:
            return
        age = time.perf_counter() - state.checked_out_at
        self._waits.append(state.waited_seconds)
        self._uses.append(age)
        if len(self._uses) >= _FOLD_AT:
            self._fold()
        if state.leaked:
            self._unleaked(state, age)
        if ConnectionCheckedIn in self.hooks.wanted:
            self.hooks.emit(ConnectionCheckedIn(self.database, age))

    def _fold(self) -> None:
        """Count what was only noted: noting takes no lock, counting does."""
        with self._lock:
            self._wait.add_all(sorted(drained(self._waits)))
            self._use.add_all(sorted(drained(self._uses)))

    # --- leaks -----------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Report every connection that has been out for too long, once."""
        for state in list(self._held.values()):
            age = now - state.checked_out_at
            if age >= self.leak_after_seconds and not state.leaked:
                state.leaked = True
                self._leaked(state, age, collected=False)

    def collected(self, state: SessionState) -> None:
        """Report a connection, or a transaction on it, that was garbage-collected unclosed."""
        self._leaked(state, time.perf_counter() - state.checked_out_at, collected=True)

    def _leaked(self, state: SessionState, age: float, *, collected: bool) -> None:
        with self._lock:
            self.leak_count += 1
        origin, worker = readable(state.line), _worker_name(state.worker)
        what = "was lost unclosed" if collected else "has not come back"
        logger.warning(
            "leak: a connection of database %s, taken %.1f s ago by %s at %s, %s; last statement: %s",
            self.database,
            age,
            worker,
            origin,
            what,
            state.summary or "none",
            extra={
                "database": self.database,
                "age_seconds": round(age, 3),
                "worker": worker,
                "source": None if origin is None else str(origin),
                "summary": state.summary,
            },
        )
        if ConnectionLeaked in self.hooks.wanted:
            self.hooks.emit(ConnectionLeaked(self.database, age, origin, worker, state.summary, collected))

    def _unleaked(self, state: SessionState, age: float) -> None:
        origin = readable(state.line)
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
        """Return who has a connection now, the oldest first."""
        now = time.perf_counter()
        # A copy: other threads check out and in meanwhile.
        states = list(self._held.values())
        states.sort(key=lambda state: state.checked_out_at)
        return tuple(self._holder(state, now) for state in states)

    def table(self) -> str:
        """Return who has the connections, a line each, for the message of a pool timeout."""
        return "\n".join(
            f"  {who.age_seconds:8.1f} s  {who.worker}  {who.summary or 'no statement yet'}  at {who.origin}"
            for who in self.holders()
        )

    def _holder(self, state: SessionState, now: float) -> Holder:
        origin = readable(state.line)
        return Holder(
            database=self.database,
            age_seconds=now - state.checked_out_at,
            worker=_worker_name(state.worker),
            origin=None if origin is None else str(origin),
            summary=state.summary,
            leaked=state.leaked,
        )

    def pool_stats(self, pool: Any, size: int, max_overflow: int) -> PoolStats:
        self._fold()
        with self._lock:
            return PoolStats(
                size=size,
                max_overflow=max_overflow,
                checked_out=pool.checkedout(),
                idle=pool.checkedin(),
                pending=self.pending,
                timeout_count=self.timeout_count,
                opened_count=self.opened_count,
                lost=dict(self.lost_counts),
                wait=self._wait.read(),
                use=self._use.read(),
                create=self._create.read(),
            )


def _worker() -> object:
    """Return the running task, or the thread; its name is asked for only in a report."""
    # asyncio.current_task() raises outside a loop.
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task
    return threading.current_thread()


def _worker_name(worker: Any) -> str:
    if isinstance(worker, threading.Thread):
        return f"thread {worker.name}"
    return f"task {worker.get_name()}" if worker is not None else "nobody known"
