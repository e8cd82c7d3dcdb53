"""The text of errors: what happened and what to try, for each kind, and how a message is composed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from prefiq_db.errors import ErrorClass, ErrorKind, SubKind
from prefiq_db.translation.classify import UNANSWERED, Phase

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
    # For a mistake without a more exact text, see name_mistakes.py.
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


# The same kinds before there is a connection, where they have a more exact meaning.
WORDS_AT_CONNECT: Final[Mapping[ErrorKind, tuple[str, str]]] = {
    ErrorKind.SCHEMA: ("the server has no database of that name", "create it, or check the name in the settings"),
    ErrorKind.PERMISSION: ("the database user may not use that database", "grant it, or connect as another user"),
    ErrorKind.USAGE: ("the driver refused the connection's settings", "see .original for the one that is wrong"),
    ErrorKind.READ_ONLY: ("no server that takes writes was found", "a failover may be under way"),
}


# Not even the server's own timeout error arrived.
WORDS_UNANSWERED: Final = (
    "the server did not answer in time, and the connection was closed",
    "it, or the network, may be frozen; see statement_timeout_seconds and using(timeout=...)",
)


# A prepared statement is missing, or there already: the session is another client's, too.
WORDS_BEHIND_A_POOLER: Final = (
    "a prepared statement of this session is gone or was there already, as behind a pooler such as pgbouncer",
    "nothing of the statement ran; set pgbouncer: true, and nothing is prepared",
)

#: A pooler refuses BEGIN; code and kind.
NO_TRANSACTIONS: Final = ("08P01", ErrorKind.UNSUPPORTED)
WORDS_IN_STATEMENT_MODE: Final = (
    "the pooler is in statement mode, where no transaction can run",
    "give this database pool_mode = transaction in pgbouncer's configuration",
)


@dataclass(frozen=True, slots=True)
class Details:
    """Details of an error besides its kind.

    Attributes:
        names: constraint, table and column, for the error's attributes.
        facts: the facts in parentheses.
        sub_kind: what is wrong with a name.
        words: what happened and what to try, instead of the kind's own text.
        sentence: the server's own sentence, for a definition (DDL); ``""`` otherwise.
        place: host and port, or a path, of a failed connection attempt.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    sub_kind: SubKind | None = None
    words: tuple[str, str] | None = None
    sentence: str = ""
    place: str = ""


def say_where(database: str | None, place: str = "") -> str:
    """Return the beginning of a message: the database, and where it is."""
    names = [*([f"database '{database}'"] if database else []), *([f"at {place}"] if place else [])]
    return f"{' '.join(names)}: " if names else ""


def say(
    found: ErrorClass,
    phase: Phase,
    details: Details,
    *,
    code: str | int | None,
    database: str | None,
    statement_seconds: float | None = None,
) -> str:
    """Return the message: where, what happened, the facts, what to try, and the server's sentence on a definition."""
    words = WORDS_AT_CONNECT if phase == "connect" and found.kind in WORDS_AT_CONNECT else WORDS
    what, advice = details.words or words[found.kind]
    if found == UNANSWERED and phase != "connect":
        what, advice = WORDS_UNANSWERED
    elif found.kind is ErrorKind.STATEMENT_TIMEOUT and statement_seconds is not None:
        what = f"the statement took longer than {statement_seconds:g} s"
    facts = [*details.facts, *([] if code is None else [f"code {code}"])]
    listed = f" ({', '.join(facts)})" if facts else ""
    sentence = f". The server says: {details.sentence}" if details.sentence else ""
    return f"{say_where(database, details.place)}{what}{listed}: {advice}{sentence}"
