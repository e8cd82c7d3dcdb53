"""All errors that a code alone can't tell apart, so that the text decides, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from prefiq_db.errors import ErrorClass, ErrorKind
from prefiq_db.translation.classify import Phase

_MYSQL: Final = ("mariadb", "mysql")


@dataclass(frozen=True, slots=True)
class NamedException:
    """One error that a code alone can't tell apart, so that the text decides.

    Attributes:
        dialects: the databases that report it.
        code: the ambiguous code; ``None`` stands for an error without one.
        phases: the phases in which the text counts.
        text: the error's text, matched from its beginning where values could follow.
        becomes: its class; a kind stands for its usual class in that phase.
    """

    dialects: tuple[str, ...]
    code: str | int | None
    phases: tuple[Phase, ...]
    text: re.Pattern[str]
    becomes: ErrorKind | ErrorClass


_ANY: Final[tuple[Phase, ...]] = ("connect", "statement", "commit")
_CONNECT: Final[tuple[Phase, ...]] = ("connect",)
_SENT: Final[tuple[Phase, ...]] = ("statement", "commit")


def _named(
    dialects: tuple[str, ...],
    code: str | int | None,
    phases: tuple[Phase, ...],
    becomes: ErrorKind | ErrorClass,
    *patterns: str,
) -> NamedException:
    return NamedException(dialects, code, phases, re.compile("|".join(f"(?:{p})" for p in patterns)), becomes)


def _unsent(kind: ErrorKind) -> ErrorClass:
    """Return the class of an error that says: the connection is lost, and the server got nothing of the request."""
    return ErrorClass(kind, transient=True, connection_lost=True, retry_statement=True, retry_transaction=True)


_PG: Final = ("postgresql",)
_LITE: Final = ("sqlite",)

#: Everything that is classified by text, with the reason. The first match counts.
NAMED_EXCEPTIONS: Final[tuple[NamedException, ...]] = (
    # PostgreSQL uses 57014 for its own timer and for a user's cancel. A text in another language stays a timeout.
    _named(_PG, "57014", _ANY, ErrorKind.CANCELLED, r"^canceling statement due to user request"),
    # A prepared plan is outdated (somebody altered the table): nothing ran, and psycopg prepares it again.
    _named(
        _PG,
        "0A000",
        _ANY,
        ErrorClass(ErrorKind.SCHEMA, transient=True, retry_statement=True, retry_transaction=True),
        r"^cached plan must not change result type",
    ),
    # libpq refuses it before anything is sent.
    _named(_PG, None, _ANY, ErrorKind.RESOURCE, r"number of parameters must be between"),
    # libpq gives no SQLSTATE for a failed connect, so only the server's text tells. It tries the hosts of a list one by
    # one and joins their texts: a host that may recover soon counts more than one that refuses for good.
    _named(
        _PG,
        None,
        _CONNECT,
        ErrorKind.NOT_READY,
        r"the database system is (?:starting up|shutting down|in recovery mode|not yet accepting connections)",
        r"the database system is not accepting connections",
        r"database \".*\" is disabled",  # pgbouncer's DISABLE
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
    # pgbouncer's 08P01 to a client for which it had no session of the server yet: nothing was sent, not even COMMIT. A
    # client meets it when it connects, too: then with a code if it sets its time zone, and without one if it logs in.
    _named(_PG, "08P01", _CONNECT, ErrorKind.TOO_MANY_CONNECTIONS, r"^query_(?:wait_)?timeout"),
    _named(_PG, None, _CONNECT, ErrorKind.TOO_MANY_CONNECTIONS, r"FATAL:\s+query_wait_timeout"),
    _named(_PG, "08P01", _SENT, _unsent(ErrorKind.TOO_MANY_CONNECTIONS), r"^query_(?:wait_)?timeout"),
    _named(_PG, "08P01", _SENT, _unsent(ErrorKind.CONNECT_FAILED), r"^server login (?:failed|has been failing)"),
    # pgbouncer in statement mode refuses BEGIN, whoever sends it.
    _named(
        _PG, "08P01", _ANY, ErrorClass(ErrorKind.UNSUPPORTED, connection_lost=True), r"^transaction blocks not allowed"
    ),
    # A list of hosts with target_session_attrs=read-write and no writer among them: a failover is in progress.
    _named(_PG, None, _CONNECT, ErrorKind.READ_ONLY, r"session is read-only", r"server is in hot standby mode"),
    _named(
        _PG,
        None,
        _CONNECT,
        ErrorKind.AUTHENTICATION,
        r"(?:password|Ident|Peer|GSSAPI|SSPI|PAM|BSD|LDAP|certificate|RADIUS|OAuth\S*) authentication failed",
        r"authentication failed for user",
        r"no password supplied",
        r"no such user",  # pgbouncer
        r"role \".*\" does not exist",
        r"role \".*\" is not permitted to log in",
        r"no pg_hba\.conf entry",
        r"pg_hba\.conf rejects",
        r"(?:SCRAM|SASL) authentication",
    ),
    _named(_PG, None, _CONNECT, ErrorKind.PERMISSION, r"permission denied for database"),
    _named(_PG, None, _CONNECT, ErrorKind.SCHEMA, r"database \".*\" does not exist", r"no such database: "),
    # TLS that isn't set up right stays wrong until somebody changes it. So does the setting pgbouncer.
    _named(
        _PG,
        None,
        _CONNECT,
        ErrorClass(ErrorKind.CONNECT_FAILED),
        r"unsupported startup parameter",
        r"certificate verify failed",
        r"server does not support SSL",
        r"(?:SSL|TLS connection|TLS client certificate) required",  # pgbouncer
        r"server certificate for",
        r"root certificate file",
        r"could not (?:load|read|open) .*(?:certificate|private key)",
    ),
    # 1290 names the option that forbids it. Another node helps only for --read-only (and MySQL's --super-read-only).
    _named(
        _MYSQL,
        1290,
        _ANY,
        ErrorKind.UNSUPPORTED,
        r"^(?!.*read[-_]only)",
    ),
    # ROLLBACK TO a missing savepoint has the same number as a missing procedure.
    _named(_MYSQL, 1305, _ANY, ErrorKind.USAGE, r"^SAVEPOINT "),
    # The definition is wrong, not the server (150: a foreign key; 121: a constraint's name is taken).
    _named(_MYSQL, 1005, _ANY, ErrorKind.SCHEMA, r"errno: (?:121|150)\b"),
    # SQLITE_ERROR covers every mistake in SQL; without one of these texts it is SYNTAX.
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
        r"^user-defined (?:function|aggregate)",  # our decimal functions, while rows were fetched
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
    # The driver knows that the connection is closed and sends nothing, not even COMMIT: connect, and do it again.
    _named(_MYSQL, None, _SENT, _unsent(ErrorKind.CONNECTION_LOST), r"^\(0\)"),
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


def find_named(dialect: str, code: str | int | None, text: str, phase: Phase) -> NamedException | None:
    """Return the named exception that an error is, or ``None``."""
    for named in NAMED_EXCEPTIONS:
        if named.code == code and dialect in named.dialects and phase in named.phases and named.text.search(text):
            return named
    return None
