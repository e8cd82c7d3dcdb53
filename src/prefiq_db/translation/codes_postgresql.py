"""PostgreSQL's error codes: the kind of each SQLSTATE.

Source: PostgreSQL 18, appendix A "PostgreSQL Error Codes", and the conditions that psycopg 3.3 knows. A code that is
not listed falls back to its class, its first two characters (appendix A: "an application that does not know the
specific error code can still infer what to do from the error class").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prefiq_db.errors import ErrorClass, ErrorKind

_CLASSES: Final[dict[ErrorKind, str]] = {
    ErrorKind.DATA: "02 10 20 21 22",
    ErrorKind.USAGE: "03 0B 0F 0Z 24 25 26 27 2D 2F 34 3B 55",
    # In an open session, 08 means the network, a pooler, or a foreign server that went away.
    ErrorKind.CONNECTION_LOST: "08",
    # Rules written in the database: triggers, RAISE (P0). WITH CHECK OPTION (44) has its own kind below.
    ErrorKind.INTEGRITY: "09 23 P0",
    ErrorKind.UNSUPPORTED: "0A",
    ErrorKind.PERMISSION: "0L 0P",
    ErrorKind.AUTHENTICATION: "28",
    ErrorKind.SCHEMA: "2B 3D 3F",
    ErrorKind.INTERNAL: "38 39 58 F0 HV XX",
    ErrorKind.SERIALIZATION: "40 72",
    ErrorKind.SYNTAX: "42",
    ErrorKind.CHECK: "44",
    ErrorKind.RESOURCE: "53 54",
    ErrorKind.CANCELLED: "57",
}

_KINDS: Final[dict[ErrorKind, str]] = {
    ErrorKind.UNIQUE: "23505",
    # PostgreSQL 18 reports ON DELETE RESTRICT as restrict_violation; until 17 it was 23503.
    ErrorKind.FOREIGN_KEY: "23001 23503",
    ErrorKind.NOT_NULL: "23502",
    ErrorKind.CHECK: "23514 44000",
    ErrorKind.EXCLUSION: "23P01",
    ErrorKind.INTEGRITY: "40002",
    ErrorKind.SERIALIZATION: "40001",
    ErrorKind.DEADLOCK: "40P01",
    # 55006: the object is in use, such as a database with open sessions that is to be dropped.
    ErrorKind.LOCK_TIMEOUT: "55006 55P03",
    # 57014 is also a user's cancel; translate() knows who set the timer.
    ErrorKind.STATEMENT_TIMEOUT: "57014",
    ErrorKind.TRANSACTION_TIMEOUT: "25P03 25P04",
    ErrorKind.CONNECT_FAILED: "08001 08004",
    ErrorKind.CONNECTION_LOST: "57P05",
    ErrorKind.TOO_MANY_CONNECTIONS: "53300",
    ErrorKind.READ_ONLY: "25006",
    ErrorKind.NOT_READY: "57P03",
    ErrorKind.SERVER_SHUTDOWN: "57P01 57P02",
    ErrorKind.PERMISSION: "42501",
    ErrorKind.SYNTAX: "42601",
    # Names: missing, already there, ambiguous, or of the wrong sort. 57P04: the database was dropped.
    ErrorKind.SCHEMA: (
        "42611 42701 42702 42703 42704 42710 42712 42723 42725 42809 42830 42883 42939 42P01 42P04 42P06 42P07 42P09"
        " 42P10 42P12 42P13 42P15 42P16 42P17 57P04 HV005 HV007 HV008 HV00P HV00Q HV00R"
    ),
    # Types and collations that don't fit together look to a caller like values that don't fit.
    ErrorKind.DATA: "39004 42804 42846 42P21 42P22 P0002 P0003 HV004 HV021 HV024 HV090",
    ErrorKind.RESOURCE: "HV001 HV014",
    ErrorKind.UNSUPPORTED: "2F002 2F003 2F004 38001 38002 38003 38004 HV00C HV00D HV00J",
    ErrorKind.USAGE: (
        # prepared statements and cursors by name, parameters, generated columns, server-side files
        "42P02 42P03 42P05 42P08 42P11 42P14 42P18 428C9 42622 58P01 58P02 58P03 HV002 HV009 HV00A HV00B HV010"
    ),
    ErrorKind.INTERNAL: "P0000",
    ErrorKind.OUTCOME_UNKNOWN: "08007 40003",
}

CLASSES: Final[Mapping[str, ErrorKind]] = {prefix: kind for kind, codes in _CLASSES.items() for prefix in codes.split()}
KINDS: Final[Mapping[str, ErrorKind]] = {code: kind for kind, codes in _KINDS.items() for code in codes.split()}

#: Codes whose flags differ from those of their kind, by phase.
EXACT: Final[Mapping[str, Mapping[str, ErrorClass]]] = {
    "statement": {
        # The session was idle when the server closed it, so the server read nothing of the next statement.
        "57P05": ErrorClass(
            ErrorKind.CONNECTION_LOST,
            transient=True,
            connection_lost=True,
            retry_statement=True,
            retry_transaction=True,
        ),
        # Memory becomes free when other sessions finish.
        "53200": ErrorClass(ErrorKind.RESOURCE, transient=True),
        "57P04": ErrorClass(ErrorKind.SCHEMA, connection_lost=True),
    },
    "connect": {},
    "commit": {},
}


def parse(code: str | int) -> str | None:
    """Return *code* as a SQLSTATE, or ``None`` if it can't be one."""
    text = str(code).strip().upper()
    return text if len(text) == 5 and text.isascii() and text.isalnum() else None


def fallback(code: str) -> ErrorKind | None:
    """Return the kind of the class that *code* belongs to."""
    return CLASSES.get(code[:2])
