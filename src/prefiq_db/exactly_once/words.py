"""The messages of the four errors about outcomes."""

from __future__ import annotations

from prefiq_db.errors import ErrorClass, NotCommittedError, OutcomeUnknownError, PermissionDeniedError, SchemaError


def never_committed(database: str, classification: ErrorClass) -> NotCommittedError:
    """Return the error for a transaction that did not commit and never will, because its token is taken."""
    return NotCommittedError(
        f"the reply to COMMIT on database {database} was lost; the transaction was not committed and never will be, so "
        "it is safe to run it again",
        database=database,
        classification=classification,
    )


def still_unknown(lost: OutcomeUnknownError, token: str, database: str) -> OutcomeUnknownError:
    """Return the error for a transaction whose outcome could not be found out in time."""
    return OutcomeUnknownError(
        f"the reply to COMMIT on database {database} was lost, and whether it was committed could not be found out in "
        "time; ask later, from any process, with resolve_outcome(error.token)",
        code=lost.code,
        database=database,
        classification=lost.classification,
        original=lost.original,
        token=token,
    )


def missing_table(error: SchemaError, database: str) -> SchemaError:
    """Return *error*, raised by BEGIN with a token, with a message that says what to do."""
    return SchemaError(
        f"exactly_once=True needs the table prefiq_commit_token in database {database}, as the shipped migrations make "
        "it: run `prefiq-db migrate upgrade`, or `alembic upgrade head` where your Alembic runs them",
        code=error.code,
        database=database,
        table="prefiq_commit_token",
        classification=error.classification,
        original=error.original,
    )


def forbidden_table(error: PermissionDeniedError, database: str) -> PermissionDeniedError:
    """Return *error*, raised by BEGIN with a token, with a message that says what to do."""
    return PermissionDeniedError(
        f"exactly_once=True needs the rights to SELECT, INSERT and DELETE rows of prefiq_commit_token in database "
        f"{database}: grant them to the service's user",
        code=error.code,
        database=database,
        table="prefiq_commit_token",
        classification=error.classification,
        original=error.original,
    )
