"""Whether anybody but us changes or listens to an engine, its dialect or its pool, or reads their logs."""

from __future__ import annotations

from logging import DEBUG, INFO
from typing import Any

from sqlalchemy import Connection, Engine

from prefiq_db.pool.vetting import AsyncPrefiqPool, PrefiqPool


class Audience:
    """The listeners and options of one engine, looked up once: every statement asks whether there are any."""

    __slots__ = ("_collections", "_engine", "_is_ours", "_options", "_pool")

    def __init__(self, engine: Engine) -> None:
        self._engine: Any = engine
        #: those that we gave it; update_execution_options() replaces them
        self._options = self._engine._execution_options
        self._pool: Any = None
        self._is_ours = False

    def is_there(self) -> bool:
        """Return whether SQLAlchemy's own objects are to be seen, because somebody else listens or logs.

        So they are for execution options of the engine itself, which change what is sent: other schemas, for instance.
        """
        engine = self._engine
        pool = engine.pool
        if pool is not self._pool:
            self._look_up()
        if engine._execution_options is not self._options:
            return True
        errors, of_errors, sends, of_sends, takes, of_takes, resets, of_resets = self._collections
        if Connection._has_events or len(errors) != 1 or not self._is_ours:  # one is our own
            return True
        if engine._has_events and self.hears(engine):
            return True
        if of_errors or sends or of_sends or takes or of_takes or resets or of_resets:
            return True
        try:
            return bool(engine.logger._cache[INFO] or pool.logger._cache[DEBUG])
        except (AttributeError, KeyError):
            return bool(engine._should_log_info() or pool._should_log_debug())

    def hears(self, target: Any) -> bool:
        """Return whether somebody listens on *target*, the engine or one of its connections.

        SQLAlchemy's flag ``_has_events`` is set with the first listener, and never back.
        """
        dispatch = target.dispatch
        return any(getattr(dispatch, name) for name in self._engine.dispatch._event_names)

    def _look_up(self) -> None:
        """Get the collections that SQLAlchemy adds listeners to; it keeps them as long as their owner."""
        listens, pool = self._engine.dialect.dispatch, self._engine.pool
        found: list[Any] = []
        for owner, name in (
            (listens, "handle_error"),
            (listens, "do_execute"),
            (pool.dispatch, "checkout"),
            (pool.dispatch, "reset"),
        ):
            collection = getattr(owner, name).for_modify(owner)
            found += [collection.listeners, collection.parent_listeners]
        self._collections = tuple(found)
        # Another class of pool may lend connections in its own way.
        self._is_ours = type(pool) in (PrefiqPool, AsyncPrefiqPool)
        self._pool = pool
