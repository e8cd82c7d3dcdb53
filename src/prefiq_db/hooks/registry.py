"""The listeners of one database. A listener's error never breaks a query: it is logged once and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakMethod

from prefiq_db import events
from prefiq_db.errors import UsageError
from prefiq_db.events import Listener, StatementFailed, StatementFinished, StatementStarted
from prefiq_db.forks import renewed
from prefiq_db.interruptions import is_interruption
from prefiq_db.unrun import is_coroutine_function, refuse_awaitable, refuse_generator_function

logger = logging.getLogger("prefiq_db.hooks")

F = TypeVar("F", bound=Callable[..., Any])

# Which listener method handles which event.
_METHODS: dict[type, str] = {
    StatementStarted: "statement_started",
    StatementFinished: "statement_finished",
    StatementFailed: "statement_failed",
    events.StreamFinished: "stream_finished",
    events.CallStarted: "call_started",
    events.CallFinished: "call_finished",
    events.AttemptFailed: "attempt_failed",
    events.TransactionFinished: "transaction_finished",
    events.OutcomeResolved: "outcome_resolved",
    events.ConnectionOpened: "connection_opened",
    events.ConnectionLost: "connection_lost",
    events.ConnectionCheckedOut: "connection_checked_out",
    events.ConnectionCheckedIn: "connection_checked_in",
    events.PoolTimedOut: "pool_timed_out",
    events.ConnectionLeaked: "connection_leaked",
    events.ConnectionUnleaked: "connection_unleaked",
    events.ReplicaChanged: "replica_changed",
    events.HealthChanged: "health_changed",
}


class Hooks:
    """Register listeners: ``before``, ``after`` and ``on_error`` take ``fn(event)`` and work as decorators."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._called: dict[type, tuple[Callable[[Any], object], ...]] = dict.fromkeys(_METHODS, ())
        #: the kinds of events that have a listener
        self.wanted: frozenset[type] = frozenset()
        #: one of them tells the line of each verb
        self.wants_lines = False
        self._on_change: list[WeakMethod[Callable[[], None]]] = []
        self._lock = renewed(self, "_lock")
        self._failed: set[tuple[int, type]] = set()
        self.error_count = 0

    def before(self, fn: F) -> F:
        """Call *fn* with a :class:`~prefiq_db.events.StatementStarted` before each statement."""
        return self._register(StatementStarted, fn)

    def after(self, fn: F) -> F:
        """Call *fn* with a :class:`~prefiq_db.events.StatementFinished` after each statement that succeeded."""
        return self._register(StatementFinished, fn)

    def on_error(self, fn: F) -> F:
        """Call *fn* with a :class:`~prefiq_db.events.StatementFailed` after each statement that failed."""
        return self._register(StatementFailed, fn)

    def add(self, listener: Listener) -> Listener:
        """Add a :class:`~prefiq_db.events.Listener`; only the methods that it overrides are called."""
        if not isinstance(listener, Listener):
            raise UsageError(
                "hooks.add: expected a prefiq_db.events.Listener; for a function use before/after/on_error"
            )
        for kind, method in _METHODS.items():
            if getattr(type(listener), method) is not getattr(Listener, method):
                self._register(kind, getattr(listener, method))
        return listener

    def remove(self, listener: Listener | Callable[..., Any]) -> None:
        """Remove a listener or function; do nothing if it isn't registered."""
        with self._lock:
            for kind, functions in self._called.items():
                self._called[kind] = tuple(
                    fn for fn in functions if fn is not listener and getattr(fn, "__self__", None) is not listener
                )
            self._note_wanted()

    def wants(self, kind: type) -> bool:
        """Return whether this *kind* of event has a listener, so that it is worth creating."""
        return kind in self.wanted

    def emit(self, event: object) -> None:
        """Notify the listeners of this kind of event, in the order of registration."""
        for fn in self._called[type(event)]:
            try:
                answer = fn(event)
                if answer is not None:
                    refuse_awaitable(answer, "hooks")
            except Exception as error:
                if is_interruption(error):
                    raise
                # A listener may raise anything, and the query goes on.
                self._note_failure(fn, error)

    def _register(self, kind: type, fn: F) -> F:
        if not callable(fn):
            raise UsageError("hooks: expected a function that takes one event")
        if is_coroutine_function(fn):
            raise UsageError("hooks: expected a plain function; hooks run inside the statement and can't be awaited")
        refuse_generator_function(fn, "hooks")
        with self._lock:
            self._called[kind] = (*self._called[kind], fn)
            self._note_wanted()
        return fn

    def _note_wanted(self) -> None:
        self.wanted = frozenset(kind for kind, functions in self._called.items() if functions)
        self.wants_lines = not self.wanted.isdisjoint((StatementStarted, StatementFinished, StatementFailed))
        for noted in list(self._on_change):
            if (fn := noted()) is not None:
                fn()

    def on_change(self, method: Callable[[], None]) -> None:
        """Call *method* whenever a listener is added or removed, as long as its object is alive."""
        with self._lock:
            self._on_change = [*(each for each in self._on_change if each() is not None), WeakMethod(method)]

    def _note_failure(self, fn: Callable[..., object], error: Exception) -> None:
        self.error_count += 1
        key = (id(fn), type(error))
        if key in self._failed:
            return
        self._failed.add(key)
        # The type only: a listener's error text may quote its event.
        logger.error(
            "a listener of database %s raised %s in %s; further ones are counted, not logged",
            self._database,
            type(error).__name__,
            getattr(fn, "__qualname__", type(fn).__name__),
            extra={"database": self._database, "error_type": type(error).__name__},
        )
