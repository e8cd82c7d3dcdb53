"""Turn an exception of SQLAlchemy, a driver or the network into one of our errors, without values.

Write a border like this, so that our error doesn't print anything of the driver's::

    failure: PrefiqDbError | None = None
    try:
        ...
    except Exception as error:
        failure = translate(error, dialect="postgresql", database="main")
    if failure is not None:
        raise failure          # outside the except block: __cause__ and __context__ stay empty

``from None`` would only hide the driver's error: it stays in ``__context__``, where log formatters and error trackers
find it, with its text and, through its traceback, with every value in its frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import exc

from prefiq_db import errors
from prefiq_db.drivers.prepared import OF_ANOTHER_CLIENT, OUTDATED
from prefiq_db.errors import PrefiqDbError, UsageError, error_type
from prefiq_db.translation.classify import DIALECTS, Phase
from prefiq_db.translation.cleaning import clean, copy_apart, unwrap
from prefiq_db.translation.details import describe_connecting, describe_statement
from prefiq_db.translation.driver_reports import Report, read_report
from prefiq_db.translation.judging import judge, judge_outcome
from prefiq_db.translation.messages import (
    NO_TRANSACTIONS,
    WORDS_BEHIND_A_POOLER,
    WORDS_IN_STATEMENT_MODE,
    Details,
    say,
)
from prefiq_db.translation.refused_calls import (
    is_misfit,
    pool_timeout_error,
    refused_call_error,
    refused_value_error,
    refuses_call,
)


def translate(
    error: BaseException,
    *,
    dialect: str,
    phase: Phase = "statement",
    database: str | None = None,
    cancelled_by_timeout: bool | None = None,
    statement_seconds: float | None = None,
    apart: bool = False,
    migrating: bool = False,
) -> PrefiqDbError:
    """Return *error* as one of our errors; raise it outside any ``except`` block.

    Args:
        error: an exception of SQLAlchemy, a driver, asyncio or the operating system. One of ours is returned unchanged.
        dialect: ``postgresql``, ``mariadb``, ``mysql``, ``sqlite`` or ``mongodb``.
        phase: ``connect`` until a connection is ready, ``commit`` once COMMIT was sent, else ``statement``.
        database: the name of the ``Database``, for the message.
        cancelled_by_timeout: whether our timer stopped the statement, where the server can't tell (57014, 1317,
            SQLITE_INTERRUPT, a socket shut by a watchdog): ``True``, ``False``, or ``None`` if not known.
        statement_seconds: the statement's time limit, for the message.
        migrating: whether a migration runs: then the advice isn't to apply the migrations.
        apart: whether *error* is raised on as well, so that ``.original`` must be a copy of the driver's exception.

    The message holds kind, database, code and names of constraints, tables and columns, never a value. The driver's
    own exception is at ``.original``, cleaned; SQLAlchemy's wrapper, which holds the statement and its parameters, is
    not kept. This function changes the driver's exception: it removes its traceback and its chain.

    Raises:
        TypeError: for ``CancelledError``, ``KeyboardInterrupt`` and other exceptions that are not errors: they belong
            to the caller and must pass unchanged.
    """
    if isinstance(error, PrefiqDbError):
        return error
    if not isinstance(error, Exception):
        raise TypeError(f"{type(error).__name__} is not an error to translate: let it pass")
    if apart:
        error = copy_apart(error)
    if isinstance(error, exc.TimeoutError):
        return pool_timeout_error(error, database)
    original = unwrap(error)
    if isinstance(original, PrefiqDbError):
        return original
    if isinstance(error, exc.StatementError) and is_misfit(error, original):
        return refused_value_error(error, original, dialect, database)
    judgement = judge(error, dialect, by_timeout=cancelled_by_timeout)
    if judgement.report is None and refuses_call(original, phase):
        return refused_call_error(original, dialect, database)
    found = judge_outcome(judgement, original, dialect, phase)
    report = judgement.report or Report(None)
    if (report.code, found.kind) == NO_TRANSACTIONS:
        details = Details(words=WORDS_IN_STATEMENT_MODE)
    elif phase == "connect":
        details = describe_connecting(error, original, found, report.text)
    elif report.driver is None or getattr(original, OUTDATED, False):
        details = Details(words=WORDS_BEHIND_A_POOLER if report.code in OF_ANOTHER_CLIENT else None)
    else:
        details = describe_statement(error, report, dialect, migrating=migrating)
    failure = error_type(found.kind)(
        say(found, phase, details, code=report.code, database=database, statement_seconds=statement_seconds),
        code=report.code,
        database=database,
        constraint=details.names.get("constraint"),
        table=details.names.get("table"),
        column=details.names.get("column"),
        sub_kind=details.sub_kind,
        classification=found,
        original=clean(original),
    )
    if report.item is not None:
        failure.statement_index = report.item
    return failure


# The dialect of a driver's errors, if the caller names none.
_DIALECT_OF: Final[Mapping[str, str]] = {"psycopg": "postgresql", "sqlite3": "sqlite", "pymongo": "mongodb"}


def _read_foreign(error: BaseException, dialect: str | None, database: str | None) -> PrefiqDbError | None:
    """Do the work of :func:`prefiq_db.errors.as_prefiq_error`; return ``None`` if no database raised *error*."""
    if isinstance(error, PrefiqDbError) or not isinstance(error, Exception):
        return error if isinstance(error, PrefiqDbError) else None
    inner = unwrap(error)
    if read_report(inner) is None and not isinstance(error, exc.SQLAlchemyError):
        return None
    if dialect is not None and dialect not in DIALECTS:
        raise UsageError(f"unknown dialect: expected one of {', '.join(DIALECTS)}")
    roots = (cls.__module__.partition(".")[0] for cls in type(inner).__mro__)
    guessed = next((_DIALECT_OF[root] for root in roots if root in _DIALECT_OF), "mariadb")
    return translate(error, dialect=dialect or guessed, database=database, apart=True)


errors._readers.append(_read_foreign)
