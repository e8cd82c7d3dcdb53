"""Read the rows of a statement in batches, from a cursor that stays open at the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefiq_db.deadline import Deadline
from prefiq_db.dialects.clocks import ClockDialect


class StreamDialect(ClockDialect):
    """Mixed into our dialects: streams.

    All methods run inside a transaction, on SQLAlchemy's *connection*. *seconds* and *deadline* limit the statement or
    the fetch, as in :meth:`bound_statements`.
    """

    def open_stream(
        self, connection: Any, send: Callable[[], Any], seconds: float, deadline: Deadline | None = None
    ) -> Any:
        """Return the result of *send*, whose rows the caller will fetch with :meth:`fetch_batch`."""
        self.bound_statements(connection, seconds, deadline)
        return send()

    def fetch_batch(
        self, connection: Any, result: Any, size: int, seconds: float, deadline: Deadline | None = None
    ) -> Sequence[Any]:
        """Return the next *size* rows; fewer of them, or none, at the end of the result."""
        self.bound_statements(connection, seconds, deadline)
        rows: Sequence[Any] = result.fetchmany(size)
        return rows

    def close_stream(self, connection: Any, result: Any, seconds: float, *, is_last: bool) -> None:
        """Close *result*, whose rows may not all be fetched; then its connection takes the next statement.

        Where that takes longer than *seconds*, the connection is closed instead.

        Args:
            is_last: the transaction is rolled back right after this.
        """
        result.close()
