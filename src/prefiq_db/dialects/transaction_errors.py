"""The errors for using a transaction that can't go on."""

from __future__ import annotations

from prefiq_db.dialects.session import ENDED, TransactionState
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    PrefiqDbError,
    StatementRefusedError,
    TransactionAbortedError,
    TransactionEndedError,
)
from prefiq_db.translation.both import of_both


def cannot_go_on(transaction: TransactionState) -> PrefiqDbError:
    """Return the error for a statement or COMMIT in a transaction that is aborted or no longer open."""
    if transaction.aborted == ENDED:
        return ended_error(transaction.token)
    return aborted_error(transaction.cause)


def ended_error(token: str | None) -> PrefiqDbError:
    """Return the error for a transaction that one of its statements has ended; for either error tree."""
    return of_both(
        TransactionEndedError(
            "the transaction can't go on: a statement in it, or the driver's own commit() or rollback(), has ended it, "
            "and what came before that is committed or undone already; look before you repeat it. COMMIT and DDL don't "
            "belong into procedures and dynamic SQL that run inside transaction()",
            token=token,
        )
    )


def undone_error() -> PrefiqDbError:
    """Return the error for a transaction that somebody rolled back on its connection; for either error tree."""
    return of_both(
        TransactionAbortedError(
            "the transaction can't go on: rollback() on its connection, or of a session that was given this "
            "connection, has undone all of it; leave the block, or put what may fail in a nested transaction()",
            classification=ErrorClass(ErrorKind.USAGE),
        )
    )


def left_open_error() -> StatementRefusedError:
    return StatementRefusedError(
        "this statement began a transaction and did not end it, or switched autocommit off, as a procedure may do; "
        "what it left open is rolled back. End it in the procedure, or run it without a BEGIN inside transaction()"
    )


def aborted_error(cause: ErrorClass | None) -> PrefiqDbError:
    """Return the error for a transaction that an earlier error, of class *cause*, has aborted; for either error tree.

    The transaction may be retried if *cause* allows it.
    """
    again = cause is not None and cause.retry_transaction
    return of_both(
        TransactionAbortedError(
            "the transaction can't go on: an earlier statement in it failed and undid work, and COMMIT would keep only "
            "the rest; let the error leave the block, or put the risky statement in a nested transaction()",
            classification=ErrorClass(ErrorKind.USAGE, transient=again, retry_transaction=again),
        )
    )
