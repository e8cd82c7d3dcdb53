"""Read the rows of a statement in batches, from a cursor that stays open at the server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Row

from prefiq_db.deadline import Deadline
from prefiq_db.dialects.clocks import ClockDialect


def fetch_tuples(result: Any, size: int) -> Sequence[Any]:
    """Return the next *size* rows of *result*, converted by their types, as tuples that :func:`row_maker` takes.

    A ``Row`` that is made when the consumer takes it is freed before the next one. A batch of them, all alive at once,
    sets off the garbage collector several times.
    """
    as_tuples = result._row_getter[2]
    tuples: Sequence[Any] = as_tuples(result._fetchmany_impl(size))
    return tuples


def row_maker(result: Any) -> Callable[[Any], Any] | None:
    """Return what makes a ``Row`` of a tuple of *result*; ``None`` if they are rows: SQLAlchemy has logged each."""
    if result._row_logging_fn is not None:
        return None
    columns = result._metadata
    return partial(Row, columns, None, columns._key_to_index)


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
        """Return the next *size* rows as :func:`fetch_tuples` does; fewer, or none, at the end of the result."""
        self.bound_statements(connection, seconds, deadline)
        return fetch_tuples(result, size)

    def close_stream(self, connection: Any, result: Any, seconds: float, *, is_last: bool) -> None:
        """Close *result*, whose rows may not all be fetched; then its connection takes the next statement.

        Where that takes longer than *seconds*, the connection is closed instead.

        Args:
            is_last: the transaction is rolled back right after this.
        """
        result.close()
