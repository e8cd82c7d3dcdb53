"""How a session joins a transaction, and what the session's own errors mean for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from prefiq_db.core.view import View
from prefiq_db.dialects.characteristics import SCHEMA
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError, SerializationError, TransactionAbortedError
from prefiq_db.instance import Instance
from prefiq_db.transaction import RUN_AGAIN, Block, request_here
from prefiq_db.translation.both import of_both
from prefiq_db.translation.classify import treatment

E = TypeVar("E", Engine, AsyncEngine)


def join_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a session that joins our transaction.

    Its objects don't expire on commit: it only releases a savepoint, and after the block there is no connection to
    reload them with.
    """
    return {"expire_on_commit": False, **options}


def engine_of(core: View, engine: E) -> E:
    """Return *engine*, that of *core* in either world, for a session: its transactions are in the schema in force."""
    schema = core.schema_of(core.overrides())
    return engine if schema is None else engine.execution_options(**{SCHEMA: schema})


def note_session(instance: Instance, session: Session) -> None:
    """Note in the request, if there is one, that *session* was opened for it."""
    request = request_here.get()
    if request is not None:
        request.opened_session(instance, session, has_uncommitted_work)


def has_uncommitted_work(session: Session) -> bool:
    """Return whether *session* has something that only a commit would keep.

    What a session of the caller's own class has sent isn't known, so there any open transaction counts.
    """
    if session.new or session.dirty or session.deleted:
        return True
    return session.in_transaction() and getattr(session, "has_written", True)


def judge_session_error(tx: Block, error: BaseException) -> PrefiqDbError | None:
    """Return the PrefiqDbError for *error*, raised in the body of *tx*, if it is the ORM's; else ``None``.

    Call it before *tx* ends.
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
    """Return the class of the last error that a session raised in *tx*."""
    pinned = tx.scope.pinned
    if pinned.is_lost:
        return RUN_AGAIN
    return None if pinned.is_closed else pinned.state.transaction.failed
