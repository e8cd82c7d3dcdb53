"""Turn what SQLAlchemy, a driver or the network raised into one error of ours, without a value in it.

How the border is to be written, so that nothing of the driver is printed with our error::

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
from prefiq_db.drivers.prepared import OUTDATED
from prefiq_db.errors import PrefiqDbError, UsageError, error_type
from prefiq_db.translation.classify import DIALECTS, Phase
from prefiq_db.translation.cleaning import clean, copy_apart, unwrap
from prefiq_db.translation.details import describe_connecting, describe_statement
from prefiq_db.translation.driver_reports import Report, read_report
from prefiq_db.translation.judging import judge, judge_outcome
from prefiq_db.translation.messages import Details, say
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
    """Return *error* as one of ours, to be raised outside any ``except`` block.

    Args:
        error: what SQLAlchemy, a driver, asyncio or the operating system raised. One of ours comes back unchanged.
        dialect: ``postgresql``, ``mariadb``, ``mysql``, ``sqlite`` or ``mongodb``.
        phase: ``connect`` until a connection is ready, ``commit`` once COMMIT was sent, else ``statement``.
        database: the name of the ``Database``, for the message.
        cancelled_by_timeout: who stopped the statement, where the server can't tell (57014, 1317, SQLITE_INTERRUPT, a
            socket shut by a watchdog): our timer (``True``), not our timer (``False``), not known (``None``).
        statement_seconds: how long the statement was allowed to take, for the message.
        migrating: a migration runs: what is missing isn't mended by applying the migrations.
        apart: *error* goes on its way too, so ``.original`` is a copy of the driver's exception.

    The message holds kind, database, code and names of constraints, tables and columns, never a value. The driver's
    own exception is at ``.original``, cleaned; SQLAlchemy's wrapper, which holds the statement and its parameters, is
    not kept. This function changes the driver's exception: its traceback and its chain are gone.

    Raises:
        TypeError: for ``CancelledError``, ``KeyboardInterrupt`` and other exceptions that are not errors: they belong
            to the caller and must go on as they are.
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
    if is_misfit(error, original):
        return refused_value_error(original, database)
    judgement = judge(error, dialect, by_timeout=cancelled_by_timeout)
    if judgement.report is None and refuses_call(original, phase):
        return refused_call_error(original, dialect, database)
    found = judge_outcome(judgement, original, dialect, phase)
    report = judgement.report or Report(None)
    if phase == "connect":
        details = describe_connecting(error, original, found, report.text)
    elif report.driver is None or getattr(original, OUTDATED, False):
        details = Details()
    else:
        details = describe_statement(error, report, dialect, migrating=migrating)
    return error_type(found.kind)(
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


# Whose errors a driver's are, where nobody says it.
_DIALECT_OF: Final[Mapping[str, str]] = {"psycopg": "postgresql", "sqlite3": "sqlite", "pymongo": "mongodb"}


def _read_foreign(error: BaseException, dialect: str | None, database: str | None) -> PrefiqDbError | None:
    """Return what :func:`prefiq_db.errors.as_prefiq_error` does; ``None`` for what is no database's."""
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
