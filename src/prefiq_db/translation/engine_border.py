"""Make what leaves ``engine`` and ``session()`` an error of both trees, ours and SQLAlchemy's, without a value.

The verbs translate what is raised. Whoever uses ``engine`` and ``session()`` writes ``except`` clauses for SQLAlchemy's
exceptions, and those quote values: in the driver's text, in literals of the statement, in ``params`` and in pickles.
Classes, codes and names stay. The one place is SQLAlchemy's ``handle_error``, through which whatever its connections
raise has to go: statements, results, COMMIT, savepoints, connecting.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import SQLAlchemyError, StatementError

from prefiq_db.drivers.halfway import REFUSED
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError, ReadOnlyError, UsageError
from prefiq_db.masking import border_translates, mask_statement
from prefiq_db.silence import hush
from prefiq_db.translation.both import Both, of_both
from prefiq_db.translation.classify import Phase, leaves_unknown
from prefiq_db.translation.cleaning import forget, unpin, unwrap
from prefiq_db.translation.driver_reports import code_of, read_report
from prefiq_db.translation.judging import Judgement, outcome
from prefiq_db.translation.python_errors import is_python_error
from prefiq_db.translation.refused_calls import REFUSAL, is_misfit
from prefiq_db.translation.translate import translate

# What names things among psycopg's DiagnosticField, by number; the others quote values.
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
    """What is asked of a connection's transaction, and noted in it."""

    began: bool
    committing: bool
    failed: ErrorClass | None

    @property
    def read_only(self) -> bool: ...


class _State(Protocol):
    @property
    def transaction(self) -> _Transaction: ...


def translate_errors(engine: Engine, database: str, *, masked: bool) -> None:
    """Let every error of *engine* that our border does not translate leave it as one of both trees."""

    @event.listens_for(engine, "handle_error")
    def leaving(context: ExceptionContext) -> PrefiqDbError | None:
        original = context.original_exception
        _note_refusal(context)
        if masked and not border_translates.get():
            hush(original)
        judgement = _judge(context)
        interruption = _interruption(context, judgement)
        if interruption is not None or getattr(original, REFUSED, False):
            context.invalidate_pool_on_disconnect = False  # there is nothing wrong with the others
        if interruption is not None:
            _hang_up(context)
            forget(original)
            return None if interruption is original else interruption
        if border_translates.get() or not isinstance(original, Exception) or isinstance(original, Both):
            return None
        failure = _translated(context, judgement, database) if _is_a_databases(context, original) else None
        if masked:
            # SQLAlchemy has the traceback already. Here it would pin frames with values, as what the driver met would.
            for each in (original, unwrap(original)):
                unpin(each)
            _scrub(context, original, failure, database)
        elif failure is not None and failure.original is not None:
            failure.args = (f"{failure} [{type(failure.original).__name__}: {failure.original}]",)
        forget(original)
        raised = context.sqlalchemy_exception
        return None if failure is None else of_both(failure, raised=raised, behind=original)


def _note_refusal(context: ExceptionContext) -> None:
    """Keep why no database takes a value of which a column's type could make nothing; translate() says it."""
    raised: Any = context.sqlalchemy_exception
    if not is_misfit(raised, context.original_exception):
        return
    dialect: Any = context.dialect
    try:
        dialect.values.refuse_unknown(raised.params)
    except UsageError as refused:
        setattr(context.original_exception, REFUSAL, str(refused))
    except (ValueError, ArithmeticError):
        pass  # a date that no calendar has: it doesn't fit, whoever is asked


def _judge(context: ExceptionContext) -> Judgement:
    dialect: Any = context.dialect
    connection: Any = context.connection
    judgement: Judgement = dialect.judge(
        context.original_exception, None if connection is None else connection._dbapi_connection
    )
    return judgement


def _interruption(context: ExceptionContext, judgement: Judgement) -> Any:
    """Return what came from outside and goes on as it is; ``None`` for a driver's error, and for ours."""
    if judgement.interruption is context.original_exception:
        return judgement.interruption
    # The verbs' border sees to what a driver made of it, and of a COMMIT the outcome is the question.
    committing = _phase(context, _state_of(context)) == "commit"
    return None if border_translates.get() or committing else judgement.interruption


def _hang_up(context: ExceptionContext) -> None:
    """Let nobody use a connection again on which a conversation was broken off."""
    dialect: Any = context.dialect
    connection: Any = context.connection
    if connection is not None and not connection.invalidated:
        # Only SQLite in this very thread has ended its statement; aiosqlite's thread may be busy with it still.
        is_sqlite = dialect.socket_of(connection._dbapi_connection.dbapi_connection) is None
        context.is_disconnect = dialect.is_async or not is_sqlite


def _is_a_databases(context: ExceptionContext, original: Exception) -> bool:
    """Return whether the driver reports it, or we do; what a listener or a signal handler raised goes on as it is."""
    if context.sqlalchemy_exception is not None or isinstance(original, PrefiqDbError):
        return True
    return context.execution_context is not None and read_report(original) is None and is_python_error(original)


def _translated(context: ExceptionContext, judgement: Judgement, database: str) -> PrefiqDbError:
    dialect: Any = context.dialect
    state = _state_of(context)
    phase = _phase(context, state)
    if state is not None and not state.transaction.began and context.statement is not None:
        found = outcome(judgement, context.original_exception, dialect.label, phase)
        if leaves_unknown(found):
            phase = "commit"  # in autocommit: sent, and no answer came
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
            # Our own READ ONLY refused it, and so would every other server.
            failure.classification = ErrorClass(ErrorKind.READ_ONLY)
        state.transaction.failed = failure.classification
    return failure


def _phase(context: ExceptionContext, state: _State | None) -> Phase:
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


def _scrub(context: ExceptionContext, original: Exception, failure: PrefiqDbError | None, database: str) -> None:
    dialect: Any = context.dialect
    raised = context.sqlalchemy_exception
    if isinstance(original, PrefiqDbError):
        code, message = None, original.args[0]
    else:
        code = code_of(original)
        message = str(failure or translate(original, dialect=dialect.label, database=database, apart=True))
        if failure is not None or _may_quote(original):
            _scrub_driver(original, code, message)
    if raised is not None:
        _scrub_sqlalchemy(raised, message)


def _may_quote(error: Exception) -> bool:
    """Return whether *error* may be about the statement's values; a class of somebody else's is his own word."""
    return isinstance(error, SQLAlchemyError) or type(error).__module__ == "builtins"


def _scrub_driver(error: Any, code: object, message: str) -> None:
    diagnostics = getattr(error, "diag", None)
    if diagnostics is not None and hasattr(error, "_info"):
        error._info = {
            field: value.encode()
            for field, name in _NAMING_FIELDS.items()
            if (value := getattr(diagnostics, name, None)) is not None
        }
    # PyMySQL's and asyncmy's errors carry their number first, and SQLAlchemy reads it there.
    error.args = (code, message) if isinstance(code, int) and error.args[:1] == (code,) else (message,)


def _scrub_sqlalchemy(error: StatementError, message: str) -> None:
    error.args = (f"({type(error.orig).__name__}) {message}",)
    error.params = None
    if error.statement is not None:
        error.statement = mask_statement(error.statement)
