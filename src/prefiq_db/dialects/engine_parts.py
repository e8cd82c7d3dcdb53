"""What an engine passes to its dialect, and the state of each of its connections."""

from __future__ import annotations

import random
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from prefiq_db.dialects.observers import Observer, Watcher
from prefiq_db.dialects.session import SESSION_KEY, SessionState


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a connection, from the settings.

    Attributes:
        session_settings: whether a session keeps its settings; false behind a transaction pooler.
        read_only: whether each session refuses writes by itself, from connecting on.
        lock_wait_seconds: the limit of a lock wait where no statement has a time limit of its own.
    """

    max_age_seconds: float = 1800.0
    ping_after_idle_seconds: float = 30.0
    ask_role_after_seconds: float = 10.0
    connect_timeout_seconds: float = 5.0
    statement_timeout_seconds: float = 30.0
    lock_timeout_seconds: float = 10.0
    session_settings: bool = True
    read_only: bool = False
    lock_wait_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        wait = min(self.lock_timeout_seconds, self.statement_timeout_seconds)
        object.__setattr__(self, "lock_wait_seconds", wait)


DEFAULT_LIMITS: Final = Limits()


class ConfiguredDialect:
    """Mixed into our dialects: the settings that a dialect needs, and the state of its connections."""

    def __init__(
        self,
        connector: Callable[..., Any] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        observer: Observer | None = None,
        watcher: Watcher | None = None,
        commenter: Callable[..., str] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.connector = connector
        self.limits = limits
        self.observer = observer
        self.watcher = watcher
        #: adds a call's tags to its statements as a comment; None when comments are off
        self.commenter = commenter

    #: looks at each statement of a session or a connection of the engine; ``None``: nobody does
    guard_of_sessions: Callable[[str, Any], None] | None = None

    #: of a primary with replicas: who has to know how far it is after a write
    marker: Any = None
    #: the name of the replica; ``""``: it is none
    node: str = ""
    #: of a replica: what its readers have to see
    gate: Any = None

    #: whether new_cursor() has better ones than the driver's connection
    waits_once: ClassVar[bool] = False

    #: a raw connection goes back to the pool; in a tenant's it may have seen another tenant's database
    reuses_raw = True

    def session_of(self, proxied: Any) -> SessionState:
        """Return the state of the connection behind SQLAlchemy's *proxied* connection."""
        record = proxied._connection_record
        info = record.info if record is not None else proxied.info
        state: SessionState | None = info.get(SESSION_KEY)
        return self._new_session(info) if state is None else state

    def session_in(self, info: Any) -> SessionState:
        """Return the state that a connection's *info* holds."""
        state: SessionState | None = info.get(SESSION_KEY)
        return self._new_session(info) if state is None else state

    def _new_session(self, info: Any) -> SessionState:
        # Up to 10 % earlier than the maximum, so that a pool filled at once doesn't reconnect at once.
        age = self.limits.max_age_seconds * random.uniform(0.9, 1.0)
        timeout = self.limits.statement_timeout_seconds if self.limits.session_settings else None
        info[SESSION_KEY] = state = SessionState(time.perf_counter() + age, timeout)
        if self.watcher is not None:
            self.watcher.know(state)
        return state

    def expect_back(self, proxied: Any, state: SessionState) -> None:
        """Report the connection if its user lets it be garbage-collected instead of returning it to the pool."""
        watcher = self.watcher
        if watcher is not None:
            # Cleared at checkin, so the callback runs only for connections that were not returned.
            state.checkout.fairy_ref = weakref.ref(proxied, lambda _: watcher.collected(state))


def limits_of(dialect: object) -> Limits:
    """Return the limits of a dialect; a dialect that isn't ours has none."""
    return dialect.limits if isinstance(dialect, ConfiguredDialect) else DEFAULT_LIMITS
