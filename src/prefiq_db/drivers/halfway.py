"""psycopg connections that are stuck in COPY, run as a plain statement: nobody sends or reads its rows.

The server waits for the rows, and refuses everything else on that connection, even its ROLLBACK.
"""

from __future__ import annotations

from typing import Any, Final

# Set on psycopg's exception, for translate(): the driver refused to go on; other connections are fine.
REFUSED: Final = "prefiq_db_refused"
_ACTIVE: Final = 1  # psycopg.pq.TransactionStatus.ACTIVE


def close_if_halfway(connection: Any, error: Exception) -> None:
    """Close *connection*, on which *error* was raised, if its request is still unfinished."""
    halfway = connection._pipeline is None and connection.pgconn.transaction_status == _ACTIVE
    if halfway and not connection.is_unheard:
        setattr(error, REFUSED, True)
        connection.pgconn.finish()
