"""Classify an error by its code, its phase and the dialect, never by its text.

The codes are data, in ``codes_*.py``; how a kind is treated, and what the phase changes, is data here. The few errors
that a code can't tell apart are in one table in :mod:`prefiq_db.translation.named_exceptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from prefiq_db.errors import ErrorClass, ErrorKind, UsageError
from prefiq_db.translation import codes_mariadb, codes_mongodb, codes_postgresql, codes_sqlite

Phase = Literal["connect", "statement", "commit"]

PHASES: Final[tuple[Phase, ...]] = ("connect", "statement", "commit")


@dataclass(frozen=True, slots=True)
class _Codes:
    """One dialect's codes: how to parse one, its kind, its family's kind, and exceptions to the kind's flags."""

    parse: Callable[[str | int], Any]
    kinds: Mapping[Any, ErrorKind]
    fallback: Callable[[Any], ErrorKind | None]
    exact: Mapping[str, Mapping[Any, ErrorClass]]


_DIALECTS: Final[Mapping[str, _Codes]] = {
    "postgresql": _Codes(
        codes_postgresql.parse, codes_postgresql.KINDS, codes_postgresql.fallback, codes_postgresql.EXACT
    ),
    "mariadb": _Codes(
        codes_mariadb.parse, codes_mariadb.KINDS_MARIADB, codes_mariadb.fallback_mariadb, codes_mariadb.EXACT
    ),
    "mysql": _Codes(codes_mariadb.parse, codes_mariadb.KINDS_MYSQL, codes_mariadb.fallback_mysql, codes_mariadb.EXACT),
    "sqlite": _Codes(codes_sqlite.parse, codes_sqlite.KINDS, codes_sqlite.fallback, codes_sqlite.EXACT),
    "mongodb": _Codes(codes_mongodb.parse, codes_mongodb.KINDS, codes_mongodb.fallback, codes_mongodb.EXACT),
}

DIALECTS: Final[tuple[str, ...]] = tuple(_DIALECTS)

# How a kind is treated while statements run: transient, connection lost, retry statement, retry transaction. A kind
# that isn't here has no flag at all.
_TREATMENT: Final[Mapping[ErrorKind, tuple[bool, bool, bool, bool]]] = {
    ErrorKind.SERIALIZATION: (True, False, True, True),
    ErrorKind.DEADLOCK: (True, False, True, True),
    # A one-shot that timed out is rolled back. MariaDB keeps the rest of a transaction open, so we roll it back.
    ErrorKind.LOCK_TIMEOUT: (True, False, True, True),
    # The same statement would take as long again: transient, but nothing retries it automatically.
    ErrorKind.STATEMENT_TIMEOUT: (True, False, False, False),
    ErrorKind.TRANSACTION_TIMEOUT: (True, True, False, False),
    ErrorKind.CONNECT_FAILED: (True, True, True, True),
    # The statement may have run, its reply lost; the transaction around it can't have been committed.
    ErrorKind.CONNECTION_LOST: (True, True, False, True),
    ErrorKind.SERVER_SHUTDOWN: (True, True, False, True),
    ErrorKind.TOO_MANY_CONNECTIONS: (True, False, True, True),
    # The caller has waited long enough for a connection; another wait makes the queue longer.
    ErrorKind.POOL_TIMEOUT: (True, False, False, False),
    # Refused before anything ran; transient because after a failover another node accepts it.
    ErrorKind.READ_ONLY: (True, False, True, True),
    ErrorKind.NOT_READY: (True, True, True, True),
    ErrorKind.OUTCOME_UNKNOWN: (False, True, False, False),
}

# Kinds that another connection attempt can't fix: somebody must change something first.
_FINAL_AT_CONNECT: Final = frozenset(
    {
        ErrorKind.AUTHENTICATION,
        ErrorKind.PERMISSION,
        ErrorKind.SCHEMA,
        ErrorKind.USAGE,
        ErrorKind.UNSUPPORTED,
        ErrorKind.SYNTAX,
        ErrorKind.DATA,
        ErrorKind.INTERNAL,
        ErrorKind.OUTCOME_UNKNOWN,
    }
)

# What a kind becomes before there is a connection that could be lost.
_AT_CONNECT: Final[Mapping[ErrorKind, ErrorKind]] = {
    ErrorKind.CONNECTION_LOST: ErrorKind.CONNECT_FAILED,
    ErrorKind.STATEMENT_TIMEOUT: ErrorKind.CONNECT_FAILED,
    ErrorKind.UNKNOWN: ErrorKind.CONNECT_FAILED,
}


def treatment(kind: ErrorKind) -> ErrorClass:
    """Return how *kind* is treated while statements run, if nothing more exact is known."""
    return ErrorClass(kind, *_TREATMENT.get(kind, ()))


#: Our own clock closed the connection because the server didn't answer.
UNANSWERED: Final = replace(treatment(ErrorKind.STATEMENT_TIMEOUT), connection_lost=True)


def leaves_unknown(found: ErrorClass) -> bool:
    """Return whether a statement that failed like this, outside a transaction, may have run."""
    lost = found.kind in (ErrorKind.CONNECTION_LOST, ErrorKind.SERVER_SHUTDOWN, ErrorKind.NOT_READY)
    # A server that stops a statement for its timeout reports it, and the connection lives.
    unanswered = found.kind is ErrorKind.STATEMENT_TIMEOUT and found.connection_lost
    return (lost or unanswered) and not found.retry_statement


def in_phase(found: ErrorClass, phase: Phase) -> ErrorClass:
    """Return the treatment in *phase* for *found*, a class of the statement phase."""
    return _PHASE_RULES[phase](found)


def _while_connecting(found: ErrorClass) -> ErrorClass:
    # Nothing was sent, so retry whatever may succeed later or on another node.
    kind = _AT_CONNECT.get(found.kind, found.kind)
    again = kind not in _FINAL_AT_CONNECT
    return ErrorClass(kind, transient=again, retry_statement=again, retry_transaction=again)


def _while_committing(found: ErrorClass) -> ErrorClass:
    # COMMIT was sent and no reply came: it may have succeeded, and only the claim protocol can tell.
    if found.connection_lost:
        return replace(treatment(ErrorKind.OUTCOME_UNKNOWN))
    return replace(found, retry_statement=False)


def _while_executing(found: ErrorClass) -> ErrorClass:
    return found


_PHASE_RULES: Final[Mapping[str, Callable[[ErrorClass], ErrorClass]]] = {
    "connect": _while_connecting,
    "statement": _while_executing,
    "commit": _while_committing,
}


def classify_error(dialect: str, code: str | int, *, phase: Phase = "statement") -> ErrorClass:
    """Return what *code* means to *dialect* in *phase*, and how to treat it.

    Args:
        dialect: ``postgresql``, ``mariadb``, ``mysql``, ``sqlite`` or ``mongodb``.
        code: a SQLSTATE (PostgreSQL), a number or its digits (MariaDB, MySQL, SQLite, MongoDB), or a symbolic name
            such as ``SQLITE_BUSY_SNAPSHOT``.
        phase: ``connect`` until a connection is ready, ``commit`` once COMMIT was sent, else ``statement``.

    A code that is in no table falls back to its family (SQLSTATE class, SQLite's primary code, a range of MariaDB's
    numbers), then to ``ErrorKind.UNKNOWN``, which nothing retries.

    Raises:
        UsageError: if *dialect* or *phase* is not one of those.
    """
    codes = _DIALECTS.get(dialect)
    if codes is None:
        raise UsageError(f"unknown dialect: expected one of {', '.join(DIALECTS)}")
    if phase not in PHASES:
        raise UsageError(f"unknown phase: expected one of {', '.join(PHASES)}")
    key = codes.parse(code)
    exact = codes.exact[phase].get(key)
    if exact is not None:
        return exact
    found = codes.exact["statement"].get(key)
    if found is None:
        kind = None if key is None else codes.kinds.get(key) or codes.fallback(key)
        found = treatment(kind or ErrorKind.UNKNOWN)
    return in_phase(found, phase)
