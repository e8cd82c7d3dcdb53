"""What the hooks look at: each statement that is sent, and what the pool does with its connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from prefiq_db.dialects.session import SessionState


class Observer(Protocol):
    """Looks at each statement that is sent."""

    def observe(
        self,
        send: Callable[..., None],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        batch_size: int,
        state: SessionState,
    ) -> None:
        """Call ``send(cursor, statement, parameters, context)`` and tell what came of it."""


class Watcher(Protocol):
    """Looks at what the pool does with its connections."""

    #: seconds waited for and used, not counted yet; the pool adds to them
    waits: list[float]
    uses: list[float]
    #: whether to call checked_out and checked_in
    wants_checkouts: bool

    def know(self, state: SessionState) -> None:
        """Look at *state* from now on to see whether somebody has its connection."""

    def waited_in_vain(self, seconds: float) -> None:
        """No connection came back in time."""

    def opened(self, seconds: float) -> None:
        """A connection was opened."""

    def lost(self, reason: str) -> None:
        """A connection was thrown away."""

    def checked_out(self, state: SessionState) -> None:
        """Somebody got a connection; only called while it wants checkouts."""

    def checked_in(self, state: SessionState, seconds: float) -> None:
        """A connection came back after *seconds*; only called while it wants checkouts, or after a leak."""

    def fold(self) -> None:
        """Count what the pool noted."""

    def table(self) -> str:
        """Return who has the connections, a line each."""

    def collected(self, state: SessionState) -> None:
        """A connection was garbage-collected by its user instead of being given back."""
