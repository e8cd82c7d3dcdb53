"""Protocols for the hooks: observe each statement, and what the pool does with its connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from prefiq_db.dialects.session import SessionState
from prefiq_db.errors import ErrorKind


class StreamNote(Protocol):
    """Records the end of one stream."""

    def ended(self, *, slowest_seconds: float, kind: ErrorKind | None, rows: int, **figures: Any) -> None:
        """Record how the stream ended; *figures* are further fields of its event."""


class Observer(Protocol):
    """Observes each statement that is sent."""

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
        """Call ``send(cursor, statement, parameters, context)`` and record the result."""

    def stream_opened(self, context: Any, state: SessionState) -> StreamNote:
        """Return an object that records the end of a stream, whose statement was just sent."""


class Watcher(Protocol):
    """Observes what the pool does with its connections."""

    #: seconds of waiting and of use that the pool has noted and nobody has counted yet
    waits: list[float]
    uses: list[float]
    #: whether to call checked_out and checked_in
    wants_checkouts: bool

    def know(self, state: SessionState) -> None:
        """Track *state* from now on, to see whether its connection is checked out."""

    def waited_in_vain(self, seconds: float) -> None:
        """Record that a checkout timed out."""

    def opened(self, seconds: float) -> None:
        """Record that a connection was opened."""

    def lost(self, reason: str) -> None:
        """Record that a connection was thrown away."""

    def checked_out(self, state: SessionState) -> None:
        """Record a checkout; only called while ``wants_checkouts``."""

    def checked_in(self, state: SessionState, seconds: float) -> None:
        """Record a checkin after *seconds* of use; only called while ``wants_checkouts``, or after a leak."""

    def fold(self) -> None:
        """Count what the pool has noted."""

    def table(self) -> str:
        """Return the holders of the connections, one a line."""

    def collected(self, state: SessionState) -> None:
        """Report a connection that was garbage-collected instead of returned."""
