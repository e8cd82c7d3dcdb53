"""MongoDB's error codes, as far as drivers receive them.

Source: ``src/mongo/base/error_codes.yml`` of the server, and the retryable and "not writable primary" lists of the
driver specifications (retryable writes, SDAM). A small table: what isn't listed is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prefiq_db.errors import ErrorClass, ErrorKind

_KINDS: Final[dict[ErrorKind, tuple[int, ...]]] = {
    ErrorKind.UNIQUE: (11000, 11001, 12582),
    ErrorKind.CHECK: (121,),
    # WriteConflict, NoSuchTransaction, PreparedTransactionInProgress, SnapshotUnavailable, SnapshotTooOld
    ErrorKind.SERIALIZATION: (112, 251, 267, 246, 239),
    ErrorKind.LOCK_TIMEOUT: (24, 46),
    ErrorKind.STATEMENT_TIMEOUT: (50, 262),
    ErrorKind.TRANSACTION_TIMEOUT: (290,),
    # HostUnreachable, HostNotFound, NetworkTimeout, NetworkInterfaceExceededTimeLimit, SocketException
    ErrorKind.CONNECTION_LOST: (6, 7, 89, 202, 9001),
    # PrimarySteppedDown, NotWritablePrimary, NotPrimaryNoSecondaryOk, LegacyNotPrimary
    ErrorKind.READ_ONLY: (189, 10107, 13435, 10058),
    # InterruptedDueToReplStateChange, NotPrimaryOrSecondary, FailedToSatisfyReadPreference, ReadConcernMajorityNot...
    ErrorKind.NOT_READY: (11602, 13436, 133, 134),
    ErrorKind.SERVER_SHUTDOWN: (91, 11600),
    # 8000 is Atlas's own; in practice a wrong user or password.
    ErrorKind.AUTHENTICATION: (11, 18, 8000),
    ErrorKind.PERMISSION: (13, 31, 33),
    ErrorKind.SYNTAX: (9, 40, 168, 40324),
    ErrorKind.SCHEMA: (26, 27, 48, 67, 68, 73, 85, 86, 166),
    ErrorKind.DATA: (2, 14, 16, 28, 34, 52, 54, 66, 10334, 17280),
    ErrorKind.RESOURCE: (146, 257, 292, 14031),
    ErrorKind.CANCELLED: (11601,),
    ErrorKind.UNSUPPORTED: (59, 115, 263, 303),
    ErrorKind.USAGE: (20, 43, 72, 79, 100, 225, 256),
    ErrorKind.OUTCOME_UNKNOWN: (64,),
    ErrorKind.INTERNAL: (1, 10, 25, 95),
}

KINDS: Final[Mapping[int, ErrorKind]] = {code: kind for kind, codes in _KINDS.items() for code in codes}

#: Codes whose flags differ from those of their kind, by phase.
EXACT: Final[Mapping[str, Mapping[int, ErrorClass]]] = {
    "statement": {
        # The write reached the primary, but waiting for its copies failed: the connection is fine.
        64: ErrorClass(ErrorKind.OUTCOME_UNKNOWN),
        290: ErrorClass(ErrorKind.TRANSACTION_TIMEOUT, transient=True),
        # ExceededTimeLimit is a limit of the server's own, not the caller's: the specification has reads repeated.
        262: ErrorClass(ErrorKind.STATEMENT_TIMEOUT, transient=True, retry_statement=True, retry_transaction=True),
    },
    "connect": {},
    "commit": {
        64: ErrorClass(ErrorKind.OUTCOME_UNKNOWN),
    },
}


def parse(code: str | int) -> int | None:
    """Return *code* as a number, or ``None`` if it isn't one."""
    if isinstance(code, int):
        return int(code)
    text = code.strip()
    return int(text) if text.isascii() and text.isdigit() else None


def fallback(code: int) -> ErrorKind | None:
    """Return ``None``: MongoDB's numbers have no meaningful ranges."""
    return None
