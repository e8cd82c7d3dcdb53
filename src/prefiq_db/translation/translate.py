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

import copy
import re
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from sqlalchemy import exc

from prefiq_db import errors
from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.drivers.halfway import REFUSED
from prefiq_db.drivers.prepared import OUTDATED
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    EventLoopError,
    MissingDriverError,
    PoolTimeoutError,
    PrefiqDbError,
    UnsupportedError,
    UsageError,
    error_type,
)
from prefiq_db.interruptions import is_interruption
from prefiq_db.translation.classify import DIALECTS, Phase, classify_error, in_phase, treatment
from prefiq_db.translation.connecting import noted, reason
from prefiq_db.translation.mistakes import find_mistake, has_mistakes
from prefiq_db.translation.telling import IDENTIFIER, Telling, tell_definition, tell_mistake, tell_names
from prefiq_db.translation.written import may_define, read_statement

_E = TypeVar("_E", bound=BaseException)

_MYSQL: Final = ("mariadb", "mysql")


@dataclass(frozen=True, slots=True)
class NamedException:
    """One case that a code alone can't tell, so that the text has to.

    Attributes:
        dialects: whose error it is.
        code: the code that isn't enough; ``None`` stands for an error without any.
        phases: the phases in which the text is believed.
        text: what the error says, matched from its beginning where values could follow.
        becomes: its class; a kind stands for its usual class in that phase.
    """

    dialects: tuple[str, ...]
    code: str | int | None
    phases: tuple[Phase, ...]
    text: re.Pattern[str]
    becomes: ErrorKind | ErrorClass


_ANY: Final[tuple[Phase, ...]] = ("connect", "statement", "commit")
_CONNECT: Final[tuple[Phase, ...]] = ("connect",)


def _named(
    dialects: tuple[str, ...],
    code: str | int | None,
    phases: tuple[Phase, ...],
    becomes: ErrorKind | ErrorClass,
    *patterns: str,
) -> NamedException:
    return NamedException(dialects, code, phases, re.compile("|".join(f"(?:{p})" for p in patterns)), becomes)


_PG: Final = ("postgresql",)
_LITE: Final = ("sqlite",)

#: Everything that is classified by text, with the reason. The first match counts.
NAMED_EXCEPTIONS: Final[tuple[NamedException, ...]] = (
    # PostgreSQL says 57014 for its own timer and for somebody's cancel. A text in another language stays a timeout.
    _named(_PG, "57014", _ANY, ErrorKind.CANCELLED, r"^canceling statement due to user request"),
    # A prepared plan grew old (somebody altered the table): nothing was done, and psycopg prepares it anew.
    _named(
        _PG,
        "0A000",
        _ANY,
        ErrorClass(ErrorKind.SCHEMA, transient=True, retry_statement=True, retry_transaction=True),
        r"^cached plan must not change result type",
    ),
    # libpq refuses it before anything is sent.
    _named(_PG, None, _ANY, ErrorKind.RESOURCE, r"number of parameters must be between"),
    # libpq gives no SQLSTATE for a failed connect, so only the server's text tells. Hosts of a list are tried one by
    # one and all their texts come together: one that may be well soon counts more than one that refuses for good.
    _named(
        _PG,
        None,
        _CONNECT,
        ErrorKind.NOT_READY,
        r"the database system is (?:starting up|shutting down|in recovery mode|not yet accepting connections)",
        r"the database system is not accepting connections",
    ),
    _named(
        _PG,
        None,
        _CONNECT,
        ErrorKind.TOO_MANY_CONNECTIONS,
        r"sorry, too many clients already",
        r"remaining connection slots are reserved",
        r"too many connections for (?:role|database)",
        r"no more connections allowed",  # pgbouncer
    ),
    # A list of hosts with target_session_attrs=read-write and no writer among them: a failover is under way.
    _named(_PG, None, _CONNECT, ErrorKind.READ_ONLY, r"session is read-only", r"server is in hot standby mode"),
    _named(
        _PG,
        None,
        _CONNECT,
        ErrorKind.AUTHENTICATION,
        r"(?:password|Ident|Peer|GSSAPI|SSPI|PAM|BSD|LDAP|certificate|RADIUS|OAuth\S*) authentication failed",
        r"authentication failed for user",
        r"no password supplied",
        r"role \".*\" does not exist",
        r"role \".*\" is not permitted to log in",
        r"no pg_hba\.conf entry",
        r"pg_hba\.conf rejects",
        r"(?:SCRAM|SASL) authentication",
    ),
    _named(_PG, None, _CONNECT, ErrorKind.PERMISSION, r"permission denied for database"),
    _named(_PG, None, _CONNECT, ErrorKind.SCHEMA, r"database \".*\" does not exist"),
    # TLS that isn't set up right stays wrong until somebody changes it.
    _named(
        _PG,
        None,
        _CONNECT,
        ErrorClass(ErrorKind.CONNECT_FAILED),
        r"certificate verify failed",
        r"server does not support SSL",
        r"server certificate for",
        r"root certificate file",
        r"could not (?:load|read|open) .*(?:certificate|private key)",
    ),
    # 1290 names the option in the way. Only --read-only (and MySQL's --super-read-only) is another node's business.
    _named(
        _MYSQL,
        1290,
        _ANY,
        ErrorKind.UNSUPPORTED,
        r"^(?!.*read[-_]only)",
    ),
    # ROLLBACK TO a savepoint that isn't there has the number of a missing procedure.
    _named(_MYSQL, 1305, _ANY, ErrorKind.USAGE, r"^SAVEPOINT "),
    # The definition is wrong (150: of a foreign key, 121: a constraint's name is taken), not the server.
    _named(_MYSQL, 1005, _ANY, ErrorKind.SCHEMA, r"errno: (?:121|150)\b"),
    # SQLITE_ERROR is everything that is wrong with the SQL; without one of these texts it is SYNTAX.
    _named(
        _LITE,
        1,
        _ANY,
        ErrorKind.USAGE,
        r"^cannot start a transaction within a transaction",
        r"^cannot (?:commit|rollback) - no transaction is active",
        r"^no such savepoint",
        r"^cannot (?:INSERT into|UPDATE) generated column",
        r"^cannot modify \S+ because it is a view",
        r"^cannot change into wal mode from within a transaction",
        r"^Safety level may not be changed inside a transaction",
    ),
    _named(_LITE, 1, _ANY, ErrorKind.UNSUPPORTED, r"^no such module"),
    _named(_LITE, 1, _ANY, ErrorKind.PERMISSION, r"^table \S+ may not be (?:dropped|modified|altered|indexed)"),
    _named(
        _LITE,
        1,
        _ANY,
        ErrorKind.SCHEMA,
        r"^no such ",
        r"^(?:table|index|view|trigger) .* already exists",
        r"^there is already (?:a|an|another) (?:table|index|view|trigger)",
        r"^use DROP (?:TABLE|VIEW) to delete ",
        r"^cannot drop (?:UNIQUE|PRIMARY KEY) column",
        r"^(?:duplicate|ambiguous) column name",
        r"^table .* has no column named ",
        r"^unknown (?:database|column|table|function)",
        r"^wrong number of arguments to function",
        r"^ON CONFLICT clause does not match",
        r"^foreign key mismatch",
        r"^a \S+ with that name already exists",
        r"^error in (?:view|trigger|index|table) ",
    ),
    _named(
        _LITE,
        1,
        _ANY,
        ErrorKind.DATA,
        r"^integer overflow",
        r"^user-defined (?:function|aggregate)",  # ours, of decimals, while rows were fetched
        r"^malformed JSON",
        r"^(?:bad )?JSON (?:path|cannot|text)",
        r"^string or blob too big",
        r"^(?:first|second|third) argument (?:to|of) ",
        r"^sub-select returns ",
    ),
    _named(
        _LITE,
        1,
        _ANY,
        ErrorKind.RESOURCE,
        r"^too many ",
        r"^parser stack overflow",
        r"^Expression tree is too large",
        r"^at most \d+ tables in a join",
    ),
    # The driver knows that the connection is closed and sends nothing, COMMIT neither: connect, and do it again.
    _named(
        _MYSQL,
        None,
        ("statement", "commit"),
        ErrorClass(
            ErrorKind.CONNECTION_LOST,
            transient=True,
            connection_lost=True,
            retry_statement=True,
            retry_transaction=True,
        ),
        r"^\(0\)",
    ),
    # Python's own sqlite3 raises these without a code.
    _named(
        _LITE,
        None,
        _ANY,
        ErrorKind.CONNECTION_LOST,
        r"^Cannot operate on a closed ",
        r"^no active connection",
        r"^Base Connection\.__init__ not called",
    ),
)


# --- what the driver reports --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Report:
    """What one driver's error says.

    Attributes:
        text: matched, and shown only of a definition (DDL).
        names: what the server's own fields, or its templates, call constraint, table and column.
        more: what the server adds: details, and a hint.
        by_user: somebody wrote the text himself, with RAISE, so it may say anything.
    """

    code: str | int | None
    text: str
    names: Mapping[str, str]
    more: tuple[str, ...] = ()
    by_user: bool = False


def _identifiers(found: Mapping[str, str | None]) -> dict[str, str]:
    """Return the names among *found* that are identifiers; several columns stand as ``a, b``."""
    return {
        noun: text
        for noun, text in found.items()
        if text and all(IDENTIFIER.fullmatch(part) for part in (text.split(", ") if noun == "column" else [text]))
    }


# Where PostgreSQL's procedural languages, and links to other servers, raise what somebody else has written.
_WRITTEN_BY_USERS: Final = re.compile(r"exec_stmt_raise|exec_stmt_assert|PLy_\w*|plperl\w*|pltcl\w*|dblink\w*|pgfdw\w*")


def _read_psycopg(error: Any) -> _Report:
    diag = error.diag
    text = diag.message_primary or (str(error.args[0]) if error.args else "")
    if _WRITTEN_BY_USERS.fullmatch(diag.source_function or ""):
        return _Report(error.sqlstate, text, {}, by_user=True)
    names: Mapping[str, str | None] = {
        "constraint": diag.constraint_name,
        "table": diag.table_name,
        "column": diag.column_name,
    }
    # In a function, it may be the function's own words.
    more = () if diag.context else tuple(filter(None, (diag.message_detail, diag.message_hint)))
    return _Report(error.sqlstate, text, _identifiers(names), more, by_user=bool(diag.context))


def _read_mysql(error: Any) -> _Report:
    args = error.args
    code = args[0] if args and isinstance(args[0], int) and args[0] else None
    text = str(args[-1]) if args and not (len(args) == 1 and code) else ""
    if args[:1] == (0,):  # (0, ''), (0, 'Not connected')
        text = f"(0) {text}"
    return _Report(code, text, _identifiers(_cut(_MYSQL_TEMPLATES, code, text)))


def _read_sqlite(error: Any) -> _Report:
    code = getattr(error, "sqlite_errorcode", None)
    text = str(error.args[0]) if error.args else ""
    return _Report(code, text, _identifiers(_cut(_SQLITE_TEMPLATES, code, text)))


def _read_pymongo(error: Any) -> _Report:
    return _Report(getattr(error, "code", None), "", {})


# The servers' fixed message templates, matched whole. A value stands before the name where there is one, and is
# matched greedily, so the name is the server's last word whatever the value contains. Messages in another language
# don't match, and give no names. Unknown columns are left out on purpose: a forgotten quote makes a value a "column".
_TICKED: Final = r"`[^`]*`\.`(?P<table>[^`]*)`"
_ONE_NAME_IN_BRACKETS: Final = rf"\({_TICKED}, CONSTRAINT `(?P<constraint>[^`]*)` FOREIGN KEY \(.*"

_MYSQL_TEMPLATES: Final[Mapping[Any, re.Pattern[str]]] = {
    code: re.compile(template, re.DOTALL)
    for codes, template in (
        # MySQL 8 writes table.key
        ((1062, 1586), r"Duplicate entry '.*' for key '(?:(?P<table>[^'.]*)\.)?(?P<constraint>[^'.]*)'"),
        ((1048,), r"Column '(?P<column>[^']*)' cannot be null"),
        ((1364,), r"Field '(?P<column>[^']*)' doesn't have a default value"),
        ((1452,), rf"Cannot add or update a child row: a foreign key constraint fails {_ONE_NAME_IN_BRACKETS}"),
        ((1451,), rf"Cannot delete or update a parent row: a foreign key constraint fails {_ONE_NAME_IN_BRACKETS}"),
        # A column's own CHECK is called table.column
        ((4025,), rf"CONSTRAINT `(?:[^`.]*\.)?(?P<constraint>[^`.]*)` failed for {_TICKED}"),
        ((3819,), r"Check constraint '(?P<constraint>[^']*)' is violated\."),
        ((1264,), r"Out of range value for column '(?P<column>[^']*)' at row \d+"),
        ((1265,), r"Data truncated for column '(?P<column>[^']*)' at row \d+"),
        ((1406,), r"Data too long for column '(?P<column>[^']*)' at row \d+"),
        (
            (1366, 1292),
            rf"Incorrect [\w ]{{1,32}} value: '.*' for column (?:{_TICKED}\.`(?P<column>[^`]*)`|'[^']*') at row \d+",
        ),
    )
    for code in codes
}

_SQLITE_TEMPLATES: Final[Mapping[Any, re.Pattern[str]]] = {
    code: re.compile(template, re.DOTALL)
    for codes, template in (
        (
            (2067, 1555, 2579),
            r"UNIQUE constraint failed: (?:index '(?P<constraint>[^']*)'|(?P<columns>.*))",
        ),
        ((1299,), r"NOT NULL constraint failed: (?P<columns>.*)"),
        # An unnamed CHECK shows its expression, which is no identifier unless it is one.
        ((275,), r"CHECK constraint failed: (?P<constraint>.*)"),
    )
    for code in codes
}


def _cut(templates: Mapping[Any, re.Pattern[str]], code: Any, text: str) -> dict[str, str | None]:
    template = templates.get(code)
    match = template.fullmatch(text) if template else None
    if match is None:
        return {}
    groups = match.groupdict()
    columns = groups.pop("columns", None)
    if columns:
        # SQLite writes t.a, t.b
        pairs = [part.partition(".") for part in columns.split(", ")]
        tables = {table for table, *_ in pairs}
        if len(tables) == 1:
            groups |= {"table": tables.pop(), "column": ", ".join(column for *_, column in pairs)}
    return groups


@dataclass(frozen=True, slots=True)
class _Driver:
    """How one driver's errors are read, and what those without a code are, by the name of their class."""

    read: Callable[[Any], _Report]
    codeless: Mapping[str, ErrorKind]
    #: whether the connection knows better: these errors come also when there is nothing wrong with it
    is_asked: bool = False


_PSYCOPG_DRIVER: Final = _Driver(
    _read_psycopg,
    {
        "ConnectionTimeout": ErrorKind.CONNECT_FAILED,
        "PipelineAborted": ErrorKind.USAGE,
        "OperationalError": ErrorKind.CONNECTION_LOST,
        "InterfaceError": ErrorKind.USAGE,
        "DataError": ErrorKind.DATA,
        "IntegrityError": ErrorKind.INTEGRITY,
        "InternalError": ErrorKind.INTERNAL,
        "ProgrammingError": ErrorKind.USAGE,
        "NotSupportedError": ErrorKind.UNSUPPORTED,
    },
    is_asked=True,
)
_MYSQL_DRIVER: Final = _Driver(
    _read_mysql,
    {
        "ProgrammingError": ErrorKind.USAGE,
        "DataError": ErrorKind.DATA,
        "IntegrityError": ErrorKind.INTEGRITY,
        "NotSupportedError": ErrorKind.UNSUPPORTED,
        # What is left is the line: a packet out of order, "Already closed".
        "MySQLError": ErrorKind.CONNECTION_LOST,
    },
)
_SQLITE_DRIVER: Final = _Driver(
    _read_sqlite,
    {
        "ProgrammingError": ErrorKind.USAGE,
        "InterfaceError": ErrorKind.USAGE,
        "DataError": ErrorKind.DATA,
        "IntegrityError": ErrorKind.INTEGRITY,
        "NotSupportedError": ErrorKind.UNSUPPORTED,
        "Error": ErrorKind.INTERNAL,
    },
)
_PYMONGO_DRIVER: Final = _Driver(
    _read_pymongo,
    {
        "ServerSelectionTimeoutError": ErrorKind.CONNECT_FAILED,
        "WaitQueueTimeoutError": ErrorKind.POOL_TIMEOUT,
        "ConnectionFailure": ErrorKind.CONNECTION_LOST,
        "ConfigurationError": ErrorKind.USAGE,
        "InvalidOperation": ErrorKind.USAGE,
        "InvalidName": ErrorKind.USAGE,
        "DocumentTooLarge": ErrorKind.DATA,
        "InvalidDocument": ErrorKind.DATA,
    },
)

# By the package that the error's class, or one it inherits from, lives in: nothing is imported that isn't installed.
_DRIVERS: Final[Mapping[str, _Driver]] = {
    "psycopg": _PSYCOPG_DRIVER,
    "pymysql": _MYSQL_DRIVER,
    "asyncmy": _MYSQL_DRIVER,
    "sqlite3": _SQLITE_DRIVER,
    "pymongo": _PYMONGO_DRIVER,
    "bson": _PYMONGO_DRIVER,
}


def _driver_of(error: BaseException) -> _Driver | None:
    roots = (cls.__module__.partition(".")[0] for cls in type(error).__mro__)
    return next((_DRIVERS[root] for root in roots if root in _DRIVERS), None)


def code_of(error: BaseException) -> str | int | None:
    """Return the server's code in a driver's own exception, or ``None``."""
    driver = _driver_of(error)
    return None if driver is None else driver.read(error).code


def is_python_word(error: Exception) -> bool:
    """Return whether *error* is one that Python raises out of a driver: a value that doesn't fit, a socket's end."""
    return _driver_of(error) is None and any(isinstance(error, cls) for cls, _ in _PYTHON)


def class_by_code(error: BaseException, dialect: str) -> ErrorClass | None:
    """Return what the server's code in a driver's own exception means to a statement; ``None`` without a code."""
    driver = _driver_of(error)
    report = None if driver is None else driver.read(error)
    if driver is None or report is None or report.code is None:
        return None
    return _classify(report, driver, error, dialect, "statement")


# --- the class -----------------------------------------------------------------------------------


# A prepared statement grew old: nothing of it was done, and it is forgotten.
_PREPARE_AGAIN: Final = ErrorClass(ErrorKind.SCHEMA, transient=True, retry_statement=True, retry_transaction=True)


#: Set on sqlite3's exception: a transaction that has read was refused to write, and no wait would mend that.
STALE: Final = "prefiq_db_stale"


def _classify(report: _Report, driver: _Driver, error: BaseException, dialect: str, phase: Phase) -> ErrorClass:
    if getattr(error, STALE, False):
        return in_phase(treatment(ErrorKind.SERIALIZATION), phase)
    if getattr(error, OUTDATED, False):
        return _PREPARE_AGAIN
    for named in NAMED_EXCEPTIONS:
        if (
            named.code == report.code
            and dialect in named.dialects
            and phase in named.phases
            and named.text.search(report.text)
        ):
            becomes = named.becomes
            if isinstance(becomes, ErrorClass):
                return becomes
            return in_phase(treatment(becomes), phase)
    if report.code is not None:
        return classify_error(dialect, report.code, phase=phase)
    names = (cls.__name__ for cls in type(error).__mro__)
    kind = next((driver.codeless[name] for name in names if name in driver.codeless), ErrorKind.UNKNOWN)
    if phase == "commit":
        # Not the server's word, and only the server knows.
        kind = ErrorKind.OUTCOME_UNKNOWN
    return in_phase(treatment(kind), phase)


# Our own clock ended a conversation in which the server had fallen silent.
_UNANSWERED: Final = replace(treatment(ErrorKind.STATEMENT_TIMEOUT), connection_lost=True)

# Cancels look the same whoever asked for them, and a socket that our watchdog shut looks like a lost one.
_CANCELS: Final = frozenset({ErrorKind.STATEMENT_TIMEOUT, ErrorKind.CANCELLED})


def _who_cancelled(found: ErrorClass, phase: Phase, by_timeout: bool | None) -> ErrorClass:
    if by_timeout is None or phase == "connect":
        return found
    if found.kind in _CANCELS:
        return treatment(ErrorKind.STATEMENT_TIMEOUT if by_timeout else ErrorKind.CANCELLED)
    if by_timeout and found.kind is ErrorKind.CONNECTION_LOST:
        return _UNANSWERED
    return found


def _as_the_connection_is(found: ErrorClass, driver: _Driver | None, error: BaseException, *, lost: bool) -> ErrorClass:
    """Return *found* as SQLAlchemy, which asked the connection, knows it: *lost*, or as good as before."""
    codeless = driver is not None and driver.read(error).code is None
    if lost and found.kind is not ErrorKind.CONNECTION_LOST:
        # A driver's word without a code, on a connection that is gone, is about that.
        unsaid = found.kind is ErrorKind.UNKNOWN or (codeless and not getattr(error, REFUSED, False))
        return replace(treatment(ErrorKind.CONNECTION_LOST) if unsaid else found, connection_lost=True)
    if not lost and driver is not None and driver.is_asked and codeless and found.kind is ErrorKind.CONNECTION_LOST:
        return treatment(ErrorKind.USAGE)  # refused by the driver, before anything was sent
    return found


# What Python itself raises out of a driver. The first that fits counts.
_PYTHON: Final[tuple[tuple[type[Exception], ErrorClass], ...]] = (
    (ssl.SSLCertVerificationError, ErrorClass(ErrorKind.CONNECT_FAILED, connection_lost=True)),
    (OSError, treatment(ErrorKind.CONNECTION_LOST)),
    (EOFError, treatment(ErrorKind.CONNECTION_LOST)),
    # A number too big for SQLite, a lone surrogate, a NUL in a string: the value doesn't fit.
    (ValueError, treatment(ErrorKind.DATA)),
    (ArithmeticError, treatment(ErrorKind.DATA)),
    (MemoryError, treatment(ErrorKind.RESOURCE)),
)


def _classify_python(error: Exception, phase: Phase) -> ErrorClass | None:
    if phase == "commit":
        # What a signal handler raised (a job queue's time limit, say) or a driver stumbled over, while the server may
        # well have read the COMMIT.
        return treatment(ErrorKind.OUTCOME_UNKNOWN)
    found = next((found for cls, found in _PYTHON if isinstance(error, cls)), None)
    if found is None and isinstance(error, LookupError):
        found = treatment(ErrorKind.DATA)  # a stored value that is no member of its column's Enum
    if found is None:
        return None
    if isinstance(error, TimeoutError) and error.errno is None and phase != "connect":
        # A deadline of ours, not the operating system's: asyncio's is the same class without an errno.
        found = _UNANSWERED
    if isinstance(error, ssl.SSLCertVerificationError) and phase == "connect":
        return ErrorClass(ErrorKind.CONNECT_FAILED)
    return in_phase(found, phase)


# --- the message ---------------------------------------------------------------------------------

#: For each kind: what happened, and what to try.
WORDS: Final[Mapping[ErrorKind, tuple[str, str]]] = {
    ErrorKind.UNIQUE: ("a unique constraint was violated", "another row has that key already"),
    ErrorKind.FOREIGN_KEY: (
        "a foreign key constraint was violated",
        "the row that is referred to is missing, or is still referred to",
    ),
    ErrorKind.NOT_NULL: ("a NOT NULL constraint was violated", "give the column a value or a default"),
    ErrorKind.CHECK: ("a CHECK constraint was violated", "the row breaks a rule of its table or view"),
    ErrorKind.EXCLUSION: ("an exclusion constraint was violated", "the row overlaps with another one"),
    ErrorKind.INTEGRITY: ("a rule of the database refused the change", "see the table's constraints and triggers"),
    ErrorKind.SERIALIZATION: (
        "the transaction collided with another one",
        "run the whole transaction again, for example with run_in_transaction",
    ),
    ErrorKind.DEADLOCK: (
        "the transaction was chosen to end a deadlock",
        "run the whole transaction again, for example with run_in_transaction",
    ),
    ErrorKind.LOCK_TIMEOUT: (
        "a lock was not granted in time",
        "another transaction holds it; see lock_timeout_seconds, and run the whole transaction again",
    ),
    ErrorKind.STATEMENT_TIMEOUT: (
        "the statement took longer than it was allowed to",
        "see statement_timeout_seconds and using(timeout=...)",
    ),
    ErrorKind.TRANSACTION_TIMEOUT: (
        "the transaction took longer, or stood idle longer, than it was allowed to",
        "keep transactions short: nothing slow between their statements",
    ),
    ErrorKind.CONNECT_FAILED: (
        "no connection could be made",
        "is the server running, and are host, port and TLS right?",
    ),
    ErrorKind.CONNECTION_LOST: ("the connection was lost", "the server or the network closed it"),
    ErrorKind.TOO_MANY_CONNECTIONS: (
        "the server has no connection left for us",
        "make the pools smaller, or the server's limit larger",
    ),
    ErrorKind.POOL_TIMEOUT: (
        "no connection of the pool became free in time",
        "see pool_size and max_overflow, and look for connections that are never given back",
    ),
    ErrorKind.READ_ONLY: (
        "the database takes no writes here",
        "a replica, a read-only transaction, a demoted primary, or a file without write permission",
    ),
    ErrorKind.NOT_READY: ("the server is not ready", "it is starting, recovering, or cut off from its cluster"),
    ErrorKind.SERVER_SHUTDOWN: ("the server is shutting down or ended the session", "connect again"),
    ErrorKind.AUTHENTICATION: (
        "the server refused user or password",
        "check user, password and the server's access rules",
    ),
    ErrorKind.PERMISSION: ("the database user may not do that", "grant it, or connect as another user"),
    ErrorKind.SYNTAX: ("the statement is not valid SQL here", "see .original for the place"),
    # What has no more exact words, see mistakes.py.
    ErrorKind.SCHEMA: (
        "a definition in the database is not what the statement expects",
        "see .original for the name and the reason",
    ),
    ErrorKind.DATA: (
        "a value does not fit",
        "out of range, too long, or not of the type that is expected there",
    ),
    ErrorKind.RESOURCE: ("a limit of the server is reached", "disk, memory, locks, or the size of a statement"),
    ErrorKind.CANCELLED: ("the statement was cancelled", "somebody asked the server to stop it"),
    ErrorKind.UNSUPPORTED: (
        "the server can't do that",
        "the version, the settings or the engine of the table don't have it",
    ),
    ErrorKind.USAGE: (
        "the call does not fit the moment",
        "transaction state, parameters, cursors or prepared statements",
    ),
    ErrorKind.OUTCOME_UNKNOWN: (
        "nobody answered, so the change may have happened or not",
        "look whether it happened before you repeat it; run_in_transaction(..., exactly_once=True) finds out by itself",
    ),
    ErrorKind.INTERNAL: ("the server or the driver failed inside", "see the server's log"),
    ErrorKind.UNKNOWN: ("the database reported an error that has no name here", "see .code and .original"),
}


# The same kinds before there is a connection, where they mean something more exact.
_WORDS_AT_CONNECT: Final[Mapping[ErrorKind, tuple[str, str]]] = {
    ErrorKind.SCHEMA: ("the server has no database of that name", "create it, or check the name in the settings"),
    ErrorKind.PERMISSION: ("the database user may not use that database", "grant it, or connect as another user"),
    ErrorKind.USAGE: ("the driver refused the connection's settings", "see .original for the one that is wrong"),
    ErrorKind.READ_ONLY: ("no server that takes writes was found", "a failover may be under way"),
}


# Not even the server's own limit was heard of.
_WORDS_UNANSWERED: Final = (
    "the server did not answer in time, and the connection was closed",
    "it, or the network, may be frozen; see statement_timeout_seconds and using(timeout=...)",
)


def _where(database: str | None, place: str = "") -> str:
    names = [*([f"database '{database}'"] if database else []), *([f"at {place}"] if place else [])]
    return f"{' '.join(names)}: " if names else ""


def _told(error: Exception, driver: _Driver, report: _Report, dialect: str, migrating: bool) -> Telling:
    """Return which names are told, and how; *error* is SQLAlchemy's, which knows the statement."""
    is_mysql = driver is _MYSQL_DRIVER
    of_rows = Telling(report.names, tuple(f"{noun} {name}" for noun, name in report.names.items()))
    statement = getattr(error, "statement", None) if isinstance(error, exc.StatementError) else None
    if not has_mistakes(dialect, report.code) and not (is_mysql and report.names) and not may_define(statement):
        return of_rows
    written = read_statement(statement, getattr(error, "params", None), dialect)
    # SIGNAL gives itself any number and any text.
    told = tell_names(report.names, written) if is_mysql else of_rows
    mistake = find_mistake(dialect, report.code, "" if report.by_user else report.text, written)
    if mistake is None:
        return told if report.by_user else tell_definition(told, dialect, report.code, report.text, written)
    if told.facts and not mistake.name:
        return replace(told, sub_kind=mistake.sub_kind, words=mistake.words())
    # SQLite has no way to raise one of its codes with a text of one's own, but for number 1, of a virtual table.
    believed = dialect == "sqlite" and report.code != 1
    said = () if report.by_user else (report.text, *report.more)
    return tell_mistake(mistake, written, believed=believed, migrating=migrating, said=said)


def _told_of_connecting(error: Exception, original: Exception, found: ErrorClass, report: _Report) -> Telling:
    connecting = noted(error, getattr(error, "orig", None), original)
    why = None
    if found.kind is ErrorKind.CONNECT_FAILED:
        why = reason(original, report.text or str(original), connecting)
    return Telling(words=why, place="" if connecting is None else connecting.place)


def _message(
    found: ErrorClass,
    report: _Report,
    phase: Phase,
    told: Telling,
    database: str | None,
    statement_seconds: float | None,
) -> str:
    words = _WORDS_AT_CONNECT if phase == "connect" and found.kind in _WORDS_AT_CONNECT else WORDS
    what, advice = told.words or words[found.kind]
    if found == _UNANSWERED and phase != "connect":
        what, advice = _WORDS_UNANSWERED
    elif found.kind is ErrorKind.STATEMENT_TIMEOUT and statement_seconds is not None:
        what = f"the statement took longer than {statement_seconds:g} s"
    facts = [*told.facts, *([] if report.code is None else [f"code {report.code}"])]
    listed = f" ({', '.join(facts)})" if facts else ""
    sentence = f". The server says: {told.sentence}" if told.sentence else ""
    return f"{_where(database, told.place)}{what}{listed}: {advice}{sentence}"


def _build(
    found: ErrorClass,
    report: _Report,
    phase: Phase,
    told: Telling,
    *,
    original: BaseException,
    database: str | None,
    statement_seconds: float | None,
) -> PrefiqDbError:
    return error_type(found.kind)(
        _message(found, report, phase, told, database, statement_seconds),
        code=report.code,
        database=database,
        constraint=told.names.get("constraint"),
        table=told.names.get("table"),
        column=told.names.get("column"),
        sub_kind=told.sub_kind,
        classification=found,
        original=original,
    )


# --- SQLAlchemy's own errors ---------------------------------------------------------------------

_POOL: Final = re.compile(r"limit of size (\d+) overflow (-?\d+) reached, connection timed out, timeout ([\d.]+)")

# The extra that brings a dialect's drivers.
_EXTRAS: Final[Mapping[str, str]] = {
    "postgresql": "prefiq-db[postgres]",
    "mariadb": "prefiq-db[mariadb]",
    "mysql": "prefiq-db[mariadb]",
    "mongodb": "prefiq-db[mongodb]",
    "sqlite": "prefiq-db",
}


def _pool_timeout(error: exc.TimeoutError, database: str | None) -> PrefiqDbError:
    what, advice = WORDS[ErrorKind.POOL_TIMEOUT]
    numbers = _POOL.search(str(error.args[0])) if error.args else None
    if numbers:
        size, overflow, seconds = int(numbers[1]), max(int(numbers[2]), 0), float(numbers[3])
        what = f"no connection within {seconds:g} s: all {size + overflow} of the pool are in use"
    return PoolTimeoutError(
        f"{_where(database)}{what}; {advice}",
        database=database,
        classification=treatment(ErrorKind.POOL_TIMEOUT),
        original=clean(error),
    )


def _missing_driver(original: BaseException, dialect: str, database: str | None) -> PrefiqDbError:
    return MissingDriverError(
        f"{_where(database)}the driver is not installed: pip install '{_EXTRAS.get(dialect, 'prefiq-db')}'",
        database=database,
        original=clean(original),
    )


# A bind's name stands in the statement; it is no value.
_MISSING_BIND: Final = re.compile(r"A value is required for bind parameter '(\w+)'(?:, in parameter group (\d+))?")


def _usage(original: BaseException, database: str | None) -> PrefiqDbError:
    """Say which error it was and where SQLAlchemy explains it; its text may quote values, so it is left out."""
    code = getattr(original, "code", None)
    if missing := _MISSING_BIND.match(str(original.args[0]) if original.args else ""):
        where = f" of rows[{missing[2]}]" if missing[2] else ""
        return UsageError(
            f"{_where(database)}params{where}: no value for the bind {missing[1]!r} of the statement", database=database
        )
    known = isinstance(original, exc.SQLAlchemyError) and isinstance(code, str) and re.fullmatch(r"\w{4}", code)
    more = f" (https://sqlalche.me/e/21/{code})" if known else ""
    holds_parameters = isinstance(original, exc.StatementError)
    unsupported = isinstance(original, (exc.UnsupportedCompilationError, NotImplementedError))
    cls = UnsupportedError if unsupported else UsageError
    return cls(
        f"{_where(database)}the call was refused with {type(original).__name__}{more}: see .original for its text",
        database=database,
        original=None if holds_parameters else clean(original),
    )


# RuntimeErrors that mean something: texts of asyncio, PyMySQL and asyncmy, without values.
_LOOP: Final = re.compile(r"Event loop is closed|different (?:event )?loop|no running event loop")
_PACKAGES: Final[Mapping[str, tuple[str, str]]] = {
    "pynacl": ("ed25519", "pynacl"),
    "cryptography": ("sha256_password and caching_sha2_password", "'prefiq-db[mariadb]'"),
}


def _runtime(error: RuntimeError, database: str | None) -> PrefiqDbError:
    text = str(error)
    if _LOOP.search(text):
        return EventLoopError(
            f"{_where(database)}used from another event loop than the one it was opened in: open one per loop",
            database=database,
            original=clean(error),
        )
    for package, (method, install) in _PACKAGES.items():
        if package in text.lower():
            return MissingDriverError(
                f"{_where(database)}the server's account logs in by {method}, which needs a package that is not"
                f" installed: pip install {install}",
                database=database,
                original=clean(error),
            )
    return _usage(error, database)


# --- the border ----------------------------------------------------------------------------------


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
    lost: bool | None = None,
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
        lost: whether the connection is, where it was asked; SQLAlchemy's own exceptions tell by themselves.

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
        error = _copied(error)
    if isinstance(error, exc.TimeoutError):
        return _pool_timeout(error, database)
    original = _unwrap(error)
    if isinstance(original, PrefiqDbError):
        return original
    if is_a_misfit(error, original):
        return _misfit(original, database)
    driver = _driver_of(original)
    told = Telling()
    if isinstance(original, DeadlinePassed):
        report, found = _Report(None, "", {}), in_phase(_UNANSWERED, phase)
    elif driver is not None:
        report = driver.read(original)
        found = _classify(report, driver, original, dialect, phase)
        told = Telling() if getattr(original, OUTDATED, False) else _told(error, driver, report, dialect, migrating)
    else:
        special = _not_a_drivers(original, dialect, phase, database)
        if special is not None:
            return special
        python = _classify_python(original, phase)
        if python is None:
            return _usage(original, database)
        report, found = _Report(None, "", {}), python
    if lost is None and isinstance(error, exc.DBAPIError):
        lost = error.connection_invalidated
    if phase == "statement" and lost is not None and not isinstance(original, DeadlinePassed):
        found = _as_the_connection_is(found, driver, original, lost=lost)
    found = _who_cancelled(found, phase, cancelled_by_timeout)
    if phase == "connect":
        told = _told_of_connecting(error, original, found, report)
    return _build(
        found, report, phase, told, original=clean(original), database=database, statement_seconds=statement_seconds
    )


#: Set on what a column's type raised: why no database knows such a value, as it is said where no type is asked.
REFUSAL: Final = "prefiq_db_refusal"


def is_a_misfit(error: BaseException | None, original: BaseException) -> bool:
    """Return whether a column's type has raised *original*, of a value that it can make nothing of.

    Args:
        error: what SQLAlchemy made of it.
    """
    return (
        isinstance(error, exc.StatementError)
        and not isinstance(error, exc.DBAPIError)
        and isinstance(original, (TypeError, ValueError, ArithmeticError, AttributeError, LookupError))
        and not isinstance(original, exc.SQLAlchemyError)
    )


def _misfit(original: Exception, database: str | None) -> PrefiqDbError:
    """Return what is said where no type is asked: by us, of what no database knows, or by the server."""
    refusal = getattr(original, REFUSAL, None)
    if refusal is not None:
        return UsageError(f"{_where(database)}{refusal}", database=database, original=clean(original))
    return _build(
        treatment(ErrorKind.DATA),
        _Report(None, "", {}),
        "statement",
        Telling(),
        original=clean(original),
        database=database,
        statement_seconds=None,
    )


def _copied(error: Exception) -> Exception:
    """Return a copy of *error*, down to the driver's; what can't be copied is returned itself."""
    try:
        made = copy.copy(error)
    except Exception:  # noqa: BLE001 - an exception's constructor may want anything
        return error
    if isinstance(made, exc.StatementError) and isinstance(made.orig, Exception):
        made.orig = _copied(made.orig)
    return made if type(made) is type(error) else error


# Whose errors a driver's are, for who doesn't say it.
_DIALECT_OF: Final[Mapping[str, str]] = {"psycopg": "postgresql", "sqlite3": "sqlite", "pymongo": "mongodb"}


def _read_foreign(error: BaseException, dialect: str | None, database: str | None) -> PrefiqDbError | None:
    """Return what :func:`prefiq_db.errors.as_prefiq_error` does; ``None`` for what is no database's."""
    if isinstance(error, PrefiqDbError) or not isinstance(error, Exception):
        return error if isinstance(error, PrefiqDbError) else None
    inner = _unwrap(error)
    if _driver_of(inner) is None and not isinstance(error, exc.SQLAlchemyError):
        return None
    if dialect is not None and dialect not in DIALECTS:
        raise UsageError(f"unknown dialect: expected one of {', '.join(DIALECTS)}")
    roots = (cls.__module__.partition(".")[0] for cls in type(inner).__mro__)
    guessed = next((_DIALECT_OF[root] for root in roots if root in _DIALECT_OF), "mariadb")
    return translate(error, dialect=dialect or guessed, database=database, apart=True)


errors._readers.append(_read_foreign)


def _unwrap(error: Exception) -> Exception:
    """Return the driver's error out of SQLAlchemy's wrapper and of its emulated DBAPI for async drivers."""
    inner: Any = error
    if isinstance(inner, exc.StatementError):
        inner = inner.orig
    if isinstance(inner, exc.EmulatedDBAPIException):
        inner = inner.driver_exception
    return inner if isinstance(inner, Exception) else error


def interruption_in(error: Exception, handled: BaseException | None) -> BaseException | None:
    """Return what came from outside: *error* itself, what SQLAlchemy has wrapped, or what a driver stumbled over.

    An interrupted driver fails once more on the way out, and that error would hide why. *handled* is what the caller
    was handling already; that is his business.
    """
    inner: BaseException | None = error
    while inner is not None and inner is not handled:
        found = _unwrap(inner) if isinstance(inner, Exception) else inner
        if is_interruption(found):
            return found
        inner = inner.__context__
    return None


def _not_a_drivers(original: Exception, dialect: str, phase: Phase, database: str | None) -> PrefiqDbError | None:
    if isinstance(original, (ImportError, exc.NoDBAPILoaded)):
        return _missing_driver(original, dialect, database)
    if isinstance(original, RuntimeError) and phase != "commit":
        return _runtime(original, database)
    if isinstance(original, exc.SQLAlchemyError):
        return _usage(original, database)
    return None


# Where exceptions keep further exceptions, and what else they pin: psycopg a finished connection with its password,
# PyMySQL a formatted traceback.
_INNER: Final = ("__cause__", "__context__", "original_exception", "driver_exception")
_PINNED: Final = ("_pgconn", "traceback")


def clean(original: _E) -> _E:
    """Return *original* without tracebacks, causes and contexts: these pin frames, values and connections."""
    pending: list[BaseException] = [original]
    seen: set[int] = set()
    while pending:
        error = pending.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        pending.extend(_inner(error))
        error.__traceback__ = None
        error.__cause__ = None
        error.__context__ = None
        for name in _PINNED:
            if getattr(error, name, None) is not None:
                setattr(error, name, None)
    return original


def _inner(error: BaseException) -> Iterable[BaseException]:
    found = [getattr(error, name, None) for name in _INNER]
    if isinstance(error, BaseExceptionGroup):
        found.extend(error.exceptions)
    return [inner for inner in found if isinstance(inner, BaseException)]
