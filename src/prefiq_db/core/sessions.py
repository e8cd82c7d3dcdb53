"""What a session's own errors mean to the transaction around it, and how a session joins one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.orm.exc import StaleDataError

from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError, SerializationError, TransactionAbortedError
from prefiq_db.transaction import RUN_AGAIN, Block
from prefiq_db.translation.both import of_both
from prefiq_db.translation.classify import treatment


def joined(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a session in a transaction of ours.

    Its objects don't expire on commit: it commits no more than a savepoint, and once the block has ended there is no
    connection to load them from again.
    """
    return {"expire_on_commit": False, **options}


def judged(tx: Block, error: BaseException) -> PrefiqDbError | None:
    """Return what *error*, which leaves the body of *tx*, is in our tree when it is the ORM's; ``None`` for any other.

    To be called before *tx* ends.
    """
    database = tx.instance.name
    if isinstance(error, PendingRollbackError):
        cause = _cause(tx)
        again = cause is not None and cause.retry_transaction
        ours: PrefiqDbError = TransactionAbortedError(
            f"database '{database}': a session was used after one of its statements had failed; let that error leave "
            "the block, or roll the session back",
            database=database,
            classification=ErrorClass(ErrorKind.USAGE, transient=again, retry_transaction=again),
            original=error,
        )
        return of_both(ours, PendingRollbackError)
    if isinstance(error, StaleDataError):
        ours = SerializationError(
            f"database '{database}': another transaction changed or deleted a row that a session had read; run the "
            "whole transaction again, for example with run_in_transaction",
            database=database,
            classification=treatment(ErrorKind.SERIALIZATION),
            original=error,
        )
        return of_both(ours, StaleDataError)
    return None


def _cause(tx: Block) -> ErrorClass | None:
    """Return the class of the last error that left a session in *tx*."""
    connection = tx.scope.connection
    if connection.invalidated:
        return RUN_AGAIN
    return None if connection.closed else tx.instance.road.state(connection).transaction.failed
