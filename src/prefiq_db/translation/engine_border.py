"""Make every error that leaves ``engine`` and ``session()`` part of both trees, ours and SQLAlchemy's, without values.

The verbs translate their errors. Code that uses ``engine`` and ``session()`` has ``except`` clauses for SQLAlchemy's
exceptions, and those quote values: in the driver's text, in literals of the statement, in ``params`` and in pickles.
Classes, codes and names stay. All of it happens in SQLAlchemy's ``handle_error``, which receives every error of its
connections: statements, results, COMMIT, savepoints, connecting.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError, StatementError

from prefiq_db.drivers.halfway import REFUSED
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError, ReadOnlyError
from prefiq_db.masking import border_translates, mask_statement
from prefiq_db.silence import hush
from prefiq_db.translation.both import Both, of_both
from prefiq_db.translation.classify import Phase, leaves_unknown
from prefiq_db.translation.cleaning import forget, unpin, unwrap
from prefiq_db.translation.driver_reports import read_report
from prefiq_db.translation.judging import Judgement, judge_outcome
from prefiq_db.translation.python_errors import is_python_error
from prefiq_db.translation.translate import translate

# The fields among psycopg's DiagnosticField that hold names, by number; the others quote values.
_NAMING_FIELDS: Final = {
    83: "severity",
    67: "sqlstate",
    115: "schema_name",
    116: "table_name",
    99: "column_name",
    100: "datatype_name",
    110: "constraint_name",
}


class _Transaction(Protocol):
    """The attributes of a connection's transaction that are read and set here."""

    began: bool
    committing: bool
    failed: ErrorClass | None

    @property
    def read_only(self) -> bool: ...


class _State(Protocol):
    @property
    def transaction(self) -> _Transaction: ...


def translate_errors(engine: Engine, database: str, *, masked: bool) -> None:
    """Translate every error of *engine* that our border doesn't, into one that belongs to both trees."""

    @event.listens_for(engine, "handle_error")
    def translate_leaving(context: ExceptionContext) -> PrefiqDbError | None:
        original = context.original_exception
        if masked and not border_translates.get():
            hush(original)
        judgement = _judge(context)
        interruption = _find_interruption(context, judgement)
        is_broken_off = interruption is not None or (judgement.interruption is not None and not judgement.is_swallowed)
        if is_broken_off or getattr(original, REFUSED, False):
            context.invalidate_pool_on_disconnect = False  # the pool's other connections are fine
        if is_broken_off:
            _hang_up(context)
        if interruption is not None:
            forget(original)
            return None if interruption is original else interruption
        if border_translates.get() or not isinstance(original, Exception) or isinstance(original, Both):
            return None
        failure = _translate(context, judgement, database) if _is_from_database(context, original) else None
        if masked:
            # SQLAlchemy has the traceback already. On the error it would pin frames with values, as causes would.
            for each in (original, unwrap(original)):
                unpin(each)
            _scrub(context, judgement, failure, database)
        elif failure is not None and failure.original is not None:
            failure.args = (f"{failure} [{type(failure.original).__name__}: {failure.original}]",)
        forget(original)
        raised = context.sqlalchemy_exception
        return None if failure is None else of_both(failure, raised=raised, behind=original)


def _judge(context: ExceptionContext) -> Judgement:
    dialect: Any = context.dialect
    connection: Any = context.connection
    judgement: Judgement = dialect.judge(
        context.original_exception, None if connection is None else connection._dbapi_connection
    )
    return judgement


def _find_interruption(context: ExceptionContext, judgement: Judgement) -> Any:
    """Return the interruption from outside, which passes unchanged; ``None`` for a driver's error, and for ours."""
    if judgement.interruption is None or judgement.interruption is context.original_exception:
        return judgement.interruption
    # The verbs' border handles what a driver made of it, and for a COMMIT the outcome is what matters.
    committing = _phase_of(context, _state_of(context)) == "commit"
    return None if border_translates.get() or committing else judgement.interruption


def _hang_up(context: ExceptionContext) -> None:
    """Prevent reuse of a connection on which a request was broken off."""
    dialect: Any = context.dialect
    connection: Any = context.connection
    if connection is not None and not connection.invalidated:
        # Only SQLite in this very thread has ended its statement; in aiosqlite's thread it may still run.
        is_sqlite = dialect.socket_of(connection._dbapi_connection.dbapi_connection) is None
        context.is_disconnect = dialect.is_async or not is_sqlite


def _is_from_database(context: ExceptionContext, original: Exception) -> bool:
    """Return whether the driver or our code raised it; an error of a listener or a signal handler passes unchanged."""
    if context.sqlalchemy_exception is not None or isinstance(original, PrefiqDbError):
        return True
    return context.execution_context is not None and read_report(original) is None and is_python_error(original)


def _translate(context: ExceptionContext, judgement: Judgement, database: str) -> PrefiqDbError:
    dialect: Any = context.dialect
    state = _state_of(context)
    phase = _phase_of(context, state)
    if state is not None and not state.transaction.began and context.statement is not None:
        found = judge_outcome(judgement, context.original_exception, dialect.label, phase)
        if leaves_unknown(found):
            phase = "commit"  # in autocommit: sent, and no reply came
    failure = translate(
        context.sqlalchemy_exception or context.original_exception,
        dialect=dialect.label,
        phase=phase,
        database=database,
        apart=True,
    )
    failure.database = failure.database or database
    if state is not None:
        if isinstance(failure, ReadOnlyError) and state.transaction.began and state.transaction.read_only:
            # Our own READ ONLY refused it, and every other server would, too.
            failure.classification = ErrorClass(ErrorKind.READ_ONLY)
        state.transaction.failed = failure.classification
    return failure


def _phase_of(context: ExceptionContext, state: _State | None) -> Phase:
    if context.connection is None:
        return "connect"
    return "commit" if state is not None and state.transaction.committing else "statement"


def _state_of(context: ExceptionContext) -> _State | None:
    connection: Any = context.connection
    if connection is None or connection._dbapi_connection is None:
        return None
    dialect: Any = context.dialect
    state: _State = dialect.session_of(connection._dbapi_connection)
    return state


# --- without values ------------------------------------------------------------------------------


def _scrub(context: ExceptionContext, judgement: Judgement, failure: PrefiqDbError | None, database: str) -> None:
    dialect: Any = context.dialect
    original: Any = context.original_exception
    raised = context.sqlalchemy_exception
    if isinstance(original, PrefiqDbError):
        code, message = None, original.args[0]
    else:
        code = None if judgement.report is None else judgement.report.code
        message = str(failure or translate(original, dialect=dialect.label, database=database, apart=True))
        if failure is not None or _may_quote(original):
            _scrub_driver(original, code, message)
    if raised is not None:
        _scrub_sqlalchemy(raised, message)


def _may_quote(error: Exception) -> bool:
    """Return whether *error* may quote the statement's values; a class that isn't SQLAlchemy's or Python's doesn't."""
    return isinstance(error, SQLAlchemyError) or type(error).__module__ == "builtins"


def _scrub_driver(error: Any, code: object, message: str) -> None:
    diagnostics = getattr(error, "diag", None)
    if diagnostics is not None and hasattr(error, "_info"):
        error._info = {
            field: value.encode()
            for field, name in _NAMING_FIELDS.items()
            if (value := getattr(diagnostics, name, None)) is not None
        }
    # PyMySQL's and asyncmy's errors have their number first, where SQLAlchemy reads it.
    error.args = (code, message) if isinstance(code, int) and error.args[:1] == (code,) else (message,)


def _scrub_sqlalchemy(error: StatementError, message: str) -> None:
    error.args = (f"({type(error.orig).__name__}) {message}",)
    error.params = None
    if error.statement is not None:
        error.statement = mask_statement(error.statement)
