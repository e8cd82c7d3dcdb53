"""Read a driver's exception: its code, its text, and the names of constraint, table and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from prefiq_db.errors import ErrorKind

# Ordinary identifiers. Anything else (blanks, quotes, a name longer than any server allows) could be a value and is
# left out.
IDENTIFIER: Final = re.compile(r"[^\W\d][\w$]{0,63}")


@dataclass(frozen=True, slots=True)
class Report:
    """The content of a driver's error. Text and names may be values of the statement, so its ``repr`` has neither.

    Attributes:
        code: the server's own code; ``None`` when the driver itself raised the error.
        text: used for matching; shown only for a definition (DDL).
        names: constraint, table and column, from the server's own fields or its message templates.
        more: what the server adds: details, and a hint.
        by_user: a user wrote the text, with RAISE, so it may say anything.
        driver: the driver that raised the error.
        labels: what MongoDB or its driver says besides the code: the error's labels, and some of its classes.
        item: which document or operation of many failed, counted from 0.
    """

    code: str | int | None
    text: str = field(default="", repr=False)
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
    more: tuple[str, ...] = field(default=(), repr=False)
    by_user: bool = False
    driver: Driver | None = field(default=None, repr=False)
    labels: frozenset[str] = frozenset()
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """How to read one driver's errors.

    Attributes:
        read: reads an error.
        codeless: the kinds of errors without a code, by the name of their class.
        is_vague: whether an error without a code leaves open if the connection is lost, so that we have to check it.
        mixes_values: whether there is only the text, in which a name may be a value.
    """

    read: Callable[[Any], Report]
    codeless: Mapping[str, ErrorKind]
    is_vague: bool = False
    mixes_values: bool = False


def _identifiers(found: Mapping[str, str | None]) -> dict[str, str]:
    """Return the names among *found* that are identifiers; several columns are joined as ``a, b``."""
    return {
        noun: text
        for noun, text in found.items()
        if text and all(IDENTIFIER.fullmatch(part) for part in (text.split(", ") if noun == "column" else [text]))
    }


# Functions of PostgreSQL's procedural languages, and of links to other servers, that raise a user's own text.
_WRITTEN_BY_USERS: Final = re.compile(r"exec_stmt_raise|exec_stmt_assert|PLy_\w*|plperl\w*|pltcl\w*|dblink\w*|pgfdw\w*")


def _read_psycopg(error: Any) -> Report:
    diag = error.diag
    text = diag.message_primary or (str(error.args[0]) if error.args else "")
    if _WRITTEN_BY_USERS.fullmatch(diag.source_function or ""):
        return Report(error.sqlstate, text, {}, by_user=True)
    names: Mapping[str, str | None] = {
        "constraint": diag.constraint_name,
        "table": diag.table_name,
        "column": diag.column_name,
    }
    # An error inside a function may have the function's own text.
    more = () if diag.context else tuple(filter(None, (diag.message_detail, diag.message_hint)))
    return Report(error.sqlstate, text, _identifiers(names), more, by_user=bool(diag.context))


def _read_mysql(error: Any) -> Report:
    args = error.args
    code = args[0] if args and isinstance(args[0], int) and args[0] else None
    text = str(args[-1]) if args and not (len(args) == 1 and code) else ""
    if args[:1] == (0,):  # (0, ''), (0, 'Not connected')
        text = f"(0) {text}"
    return Report(code, text, _identifiers(_cut_names(_MYSQL_TEMPLATES, code, text)))


def _read_sqlite(error: Any) -> Report:
    code = getattr(error, "sqlite_errorcode", None)
    text = str(error.args[0]) if error.args else ""
    return Report(code, text, _identifiers(_cut_names(_SQLITE_TEMPLATES, code, text)))


# MongoDB says "collection: <database>.<collection> index: <index> dup key: { <key>: <value> }", and lists the index's
# fields apart. No value stands before the names.
_DUPLICATE: Final = re.compile(
    r"E1100[01] duplicate key error collection: [\w-]{1,64}\.(\S{1,200}) index: (\S{1,200}) "
)
# Dots are those of fields in fields, and of collections' names.
_DOCUMENT_NAME: Final = re.compile(r"[^\W\d$][\w$.-]{0,119}")
_TOLD_BY_CLASS: Final = frozenset({"NetworkTimeout", "WriteConcernError"})


def _read_pymongo(error: Any) -> Report:
    details = _mapping(getattr(error, "details", None))
    labels = {name for name in getattr(error, "_error_labels", ()) if isinstance(name, str)}
    labels |= {cls.__name__ for cls in type(error).__mro__} & _TOLD_BY_CLASS
    code, item = getattr(error, "code", None), None
    failed, unconfirmed = (_first(details.get(name)) for name in ("writeErrors", "writeConcernErrors"))
    if failed is not None:  # of many documents
        details, code, item = failed, failed.get("code"), failed.get("index")
    elif unconfirmed is not None:
        code = unconfirmed.get("code")
        labels.add("WriteConcernError")
    elif code is None:
        code = details.get("code")
    return Report(
        code if isinstance(code, int) else None,
        names=_names_of_duplicate(details) if code in _DUPLICATE_CODES else {},
        labels=frozenset(labels),
        item=item if isinstance(item, int) else None,
    )


_DUPLICATE_CODES: Final = (11000, 11001, 12582)


def _mapping(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _first(found: Any) -> Mapping[str, Any] | None:
    return _mapping(found[0]) if isinstance(found, list) and found else None


def _names_of_duplicate(details: Mapping[str, Any]) -> dict[str, str]:
    """Return the collection, the index and its fields; never the key's value, which stands beside them."""
    found = _DUPLICATE.match(str(details.get("errmsg", "")))
    names = {} if found is None else {"table": found[1], "constraint": found[2]}
    keys = [str(key) for key in _mapping(details.get("keyPattern"))]
    if keys and all(map(_DOCUMENT_NAME.fullmatch, keys)):
        names["column"] = ", ".join(keys)
    return {noun: name for noun, name in names.items() if noun == "column" or _DOCUMENT_NAME.fullmatch(name)}


# The servers' fixed message templates, matched as a whole. A value before the name is matched greedily, so that the
# name is the server's last word whatever the value contains. Messages in another language don't match, and give no
# names. Unknown columns are left out on purpose: a forgotten quote turns a value into a "column".
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
        # MariaDB names a column's own CHECK table.column
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
        # The message for an unnamed CHECK shows its expression, which is left out unless it is an identifier.
        ((275,), r"CHECK constraint failed: (?P<constraint>.*)"),
    )
    for code in codes
}


def _cut_names(templates: Mapping[Any, re.Pattern[str]], code: Any, text: str) -> dict[str, str | None]:
    """Return the names that the template of *code* matches in *text*."""
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


_PSYCOPG_DRIVER: Final = Driver(
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
    is_vague=True,
)
_MYSQL_DRIVER: Final = Driver(
    _read_mysql,
    {
        "ProgrammingError": ErrorKind.USAGE,
        "DataError": ErrorKind.DATA,
        "IntegrityError": ErrorKind.INTEGRITY,
        "NotSupportedError": ErrorKind.UNSUPPORTED,
        # The remaining errors are about the connection: a packet out of order, "Already closed".
        "MySQLError": ErrorKind.CONNECTION_LOST,
    },
    mixes_values=True,
)
_SQLITE_DRIVER: Final = Driver(
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
_PYMONGO_DRIVER: Final = Driver(
    _read_pymongo,
    {
        "ServerSelectionTimeoutError": ErrorKind.CONNECT_FAILED,
        "WaitQueueTimeoutError": ErrorKind.POOL_TIMEOUT,
        "_OperationCancelled": ErrorKind.CONNECTION_LOST,
        "ConnectionFailure": ErrorKind.CONNECTION_LOST,
        "ConfigurationError": ErrorKind.USAGE,
        "InvalidOperation": ErrorKind.USAGE,
        "InvalidName": ErrorKind.USAGE,
        "CollectionInvalid": ErrorKind.SCHEMA,
        "DocumentTooLarge": ErrorKind.DATA,
        "InvalidDocument": ErrorKind.DATA,
        "BSONError": ErrorKind.DATA,
        "ProtocolError": ErrorKind.CONNECTION_LOST,
    },
)

# By the package of the error's class, or of a class that it inherits from, so that no missing driver is imported.
_DRIVERS: Final[Mapping[str, Driver]] = {
    "psycopg": _PSYCOPG_DRIVER,
    "pymysql": _MYSQL_DRIVER,
    "asyncmy": _MYSQL_DRIVER,
    "sqlite3": _SQLITE_DRIVER,
    "pymongo": _PYMONGO_DRIVER,
    "bson": _PYMONGO_DRIVER,
}


def read_report(error: BaseException) -> Report | None:
    """Return the content of a driver's own exception, or ``None`` if *error* is not a driver's."""
    roots = (cls.__module__.partition(".")[0] for cls in type(error).__mro__)
    driver = next((_DRIVERS[root] for root in roots if root in _DRIVERS), None)
    return None if driver is None else replace(driver.read(error), driver=driver)


def codeless_kind(package: str, class_name: str) -> ErrorKind:
    """Return the kind of a driver's error without a code, by the name of its class."""
    return _DRIVERS[package].codeless.get(class_name, _CODELESS_SUBCLASSES.get(class_name, ErrorKind.UNKNOWN))


# Classes whose base classes say what they are, for whoever knows the name alone.
_CODELESS_SUBCLASSES: Final[Mapping[str, ErrorKind]] = {
    "AutoReconnect": ErrorKind.CONNECTION_LOST,
    "NotPrimaryError": ErrorKind.READ_ONLY,
    "NetworkTimeout": ErrorKind.STATEMENT_TIMEOUT,
    "CancelledError": ErrorKind.CANCELLED,
}


def code_of(error: BaseException) -> str | int | None:
    """Return the server's code in a driver's own exception, or ``None``."""
    report = read_report(error)
    return None if report is None else report.code
