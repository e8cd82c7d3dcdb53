"""A connection of psycopg's that is left half-way: in COPY as a statement, whose rows nobody sends or reads.

The server waits for them, and everything else is refused on that connection, its ROLLBACK too.
"""

from __future__ import annotations

from typing import Any, Final

# Set on psycopg's exception, for translate(): the driver refused to go on, and no other connection is concerned.
REFUSED: Final = "prefiq_db_refused"
_ACTIVE: Final = 1  # psycopg.pq.TransactionStatus.ACTIVE


def close_if_halfway(connection: Any, error: Exception) -> None:
    """Close *connection*, on which *error* was raised, unless it has come to an end with what it did."""
    if connection._pipeline is None and connection.pgconn.transaction_status == _ACTIVE:
        setattr(error, REFUSED, True)
        connection.pgconn.finish()
