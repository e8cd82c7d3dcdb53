"""SQLite's result codes: primary and extended, by number and by name.

Source: https://www.sqlite.org/rescode.html and ``sqlite3.h``. The low byte of an extended
code is its primary code, so an unknown extended code falls back to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prefiq_db.errors import ErrorClass, ErrorKind

PRIMARY_NAMES: Final[Mapping[str, int]] = {
    "SQLITE_ERROR": 1,
    "SQLITE_INTERNAL": 2,
    "SQLITE_PERM": 3,
    "SQLITE_ABORT": 4,
    "SQLITE_BUSY": 5,
    "SQLITE_LOCKED": 6,
    "SQLITE_NOMEM": 7,
    "SQLITE_READONLY": 8,
    "SQLITE_INTERRUPT": 9,
    "SQLITE_IOERR": 10,
    "SQLITE_CORRUPT": 11,
    "SQLITE_NOTFOUND": 12,
    "SQLITE_FULL": 13,
    "SQLITE_CANTOPEN": 14,
    "SQLITE_PROTOCOL": 15,
    "SQLITE_EMPTY": 16,
    "SQLITE_SCHEMA": 17,
    "SQLITE_TOOBIG": 18,
    "SQLITE_CONSTRAINT": 19,
    "SQLITE_MISMATCH": 20,
    "SQLITE_MISUSE": 21,
    "SQLITE_NOLFS": 22,
    "SQLITE_AUTH": 23,
    "SQLITE_FORMAT": 24,
    "SQLITE_RANGE": 25,
    "SQLITE_NOTADB": 26,
    "SQLITE_NOTICE": 27,
    "SQLITE_WARNING": 28,
}

# The n-th word of a line is the extended code with n in its second byte; "-" is a number that SQLite doesn't use.
_EXTENDED: Final[dict[str, str]] = {
    "SQLITE_ERROR": "MISSING_COLLSEQ RETRY SNAPSHOT RESERVESIZE KEY UNABLE",
    "SQLITE_ABORT": "- ROLLBACK",
    "SQLITE_BUSY": "RECOVERY SNAPSHOT TIMEOUT",
    "SQLITE_LOCKED": "SHAREDCACHE VTAB",
    "SQLITE_READONLY": "RECOVERY CANTLOCK ROLLBACK DBMOVED CANTINIT DIRECTORY",
    "SQLITE_IOERR": (
        "READ SHORT_READ WRITE FSYNC DIR_FSYNC TRUNCATE FSTAT UNLOCK RDLOCK DELETE BLOCKED NOMEM ACCESS"
        " CHECKRESERVEDLOCK LOCK CLOSE DIR_CLOSE SHMOPEN SHMSIZE SHMLOCK SHMMAP SEEK DELETE_NOENT MMAP GETTEMPPATH"
        " CONVPATH VNODE AUTH BEGIN_ATOMIC COMMIT_ATOMIC ROLLBACK_ATOMIC DATA CORRUPTFS IN_PAGE BADKEY CODEC"
    ),
    "SQLITE_CORRUPT": "VTAB SEQUENCE INDEX",
    "SQLITE_CANTOPEN": "NOTEMPDIR ISDIR FULLPATH CONVPATH DIRTYWAL SYMLINK",
    "SQLITE_CONSTRAINT": (
        "CHECK COMMITHOOK FOREIGNKEY FUNCTION NOTNULL PRIMARYKEY TRIGGER UNIQUE VTAB ROWID PINNED DATATYPE"
    ),
    "SQLITE_AUTH": "USER",
    "SQLITE_NOTICE": "RECOVER_WAL RECOVER_ROLLBACK RBU",
    "SQLITE_WARNING": "AUTOINDEX",
}

EXTENDED_NAMES: Final[Mapping[str, int]] = {
    f"{primary}_{word}": PRIMARY_NAMES[primary] | position << 8
    for primary, words in _EXTENDED.items()
    for position, word in enumerate(words.split(), start=1)
    if word != "-"
}

NAMES: Final[Mapping[str, int]] = {**PRIMARY_NAMES, **EXTENDED_NAMES}

_KINDS: Final[dict[ErrorKind, str]] = {
    ErrorKind.UNIQUE: "CONSTRAINT_UNIQUE CONSTRAINT_PRIMARYKEY CONSTRAINT_ROWID",
    ErrorKind.FOREIGN_KEY: "CONSTRAINT_FOREIGNKEY",
    ErrorKind.NOT_NULL: "CONSTRAINT_NOTNULL",
    ErrorKind.CHECK: "CONSTRAINT_CHECK",
    # CONSTRAINT_TRIGGER is RAISE(): a rule written in the database, like PostgreSQL's P0001 and MariaDB's 1644.
    ErrorKind.INTEGRITY: "CONSTRAINT",
    # BUSY_SNAPSHOT: the read snapshot is outdated, and waiting doesn't help; retry the whole transaction.
    # ABORT_ROLLBACK: the transaction was rolled back while a statement in it was still being read.
    ErrorKind.SERIALIZATION: "BUSY_SNAPSHOT ERROR_SNAPSHOT ABORT_ROLLBACK",
    # PROTOCOL is the locking protocol of WAL losing a race, "usually" gone at the next try (rescode.html).
    ErrorKind.LOCK_TIMEOUT: "BUSY LOCKED PROTOCOL IOERR_BLOCKED",
    # INTERRUPT is also a user's cancel; translate() knows who set the timer.
    ErrorKind.STATEMENT_TIMEOUT: "INTERRUPT",
    ErrorKind.CONNECT_FAILED: "CANTOPEN",
    ErrorKind.READ_ONLY: "READONLY",
    ErrorKind.PERMISSION: "PERM AUTH",
    # SQLITE_ERROR covers every mistake in SQL text: translate() tells schema from syntax by the message.
    ErrorKind.SYNTAX: "ERROR",
    ErrorKind.SCHEMA: "SCHEMA ERROR_MISSING_COLLSEQ ERROR_RETRY",
    ErrorKind.DATA: "TOOBIG MISMATCH CONSTRAINT_DATATYPE",
    ErrorKind.RESOURCE: "FULL NOMEM IOERR_NOMEM NOLFS",
    ErrorKind.CANCELLED: "ABORT",
    ErrorKind.UNSUPPORTED: "NOTFOUND",
    ErrorKind.USAGE: "MISUSE RANGE",
    # CORRUPT and NOTADB are INTERNAL, not RESOURCE: the store is damaged, and neither space nor waiting repairs it.
    ErrorKind.INTERNAL: "INTERNAL IOERR CORRUPT NOTADB FORMAT EMPTY NOTICE WARNING ERROR_UNABLE",
}

KINDS: Final[Mapping[int, ErrorKind]] = {
    NAMES[f"SQLITE_{name}"]: kind for kind, names in _KINDS.items() for name in names.split()
}

#: Codes whose flags differ from those of their kind, by phase.
EXACT: Final[Mapping[str, Mapping[int, ErrorClass]]] = {
    "statement": {
        # A file's permissions don't fail over, so a retry can't help. Extended codes likewise, below.
        NAMES["SQLITE_READONLY"]: ErrorClass(ErrorKind.READ_ONLY),
        **{
            code: ErrorClass(ErrorKind.READ_ONLY)
            for name, code in EXTENDED_NAMES.items()
            if name.startswith("SQLITE_READONLY_")
        },
        # The schema changed under a prepared statement; preparing it again helps.
        **{
            NAMES[name]: ErrorClass(ErrorKind.SCHEMA, transient=True, retry_statement=True, retry_transaction=True)
            for name in ("SQLITE_SCHEMA", "SQLITE_ERROR_RETRY")
        },
        NAMES["SQLITE_NOMEM"]: ErrorClass(ErrorKind.RESOURCE, transient=True),
        NAMES["SQLITE_IOERR_NOMEM"]: ErrorClass(ErrorKind.RESOURCE, transient=True),
    },
    "connect": {
        NAMES["SQLITE_READONLY"]: ErrorClass(ErrorKind.READ_ONLY),
    },
    "commit": {
        # The write-ahead log may already hold the commit when the disk fails to confirm it.
        code: ErrorClass(ErrorKind.OUTCOME_UNKNOWN, connection_lost=True)
        for name, code in {**EXTENDED_NAMES, "SQLITE_IOERR": NAMES["SQLITE_IOERR"]}.items()
        if name.startswith("SQLITE_IOERR") and name not in ("SQLITE_IOERR_NOMEM", "SQLITE_IOERR_BLOCKED")
    },
}


def parse(code: str | int) -> int | None:
    """Return *code* as a number: a number, its digits, or a symbolic name such as ``SQLITE_BUSY_SNAPSHOT``."""
    if isinstance(code, int):
        return int(code)
    text = code.strip().upper()
    return int(text) if text.isascii() and text.isdigit() else NAMES.get(text)


def fallback(code: int) -> ErrorKind | None:
    """Return the kind of the primary code in the low byte of *code*."""
    return KINDS.get(code & 0xFF)
