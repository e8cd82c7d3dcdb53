"""Errors that Python itself raises in a driver: a closed socket, a value that doesn't fit, no memory."""

from __future__ import annotations

import ssl
from typing import Final

from prefiq_db.errors import ErrorClass, ErrorKind
from prefiq_db.translation.classify import UNANSWERED, Phase, in_phase, treatment

# The first match counts.
_CLASSES: Final[tuple[tuple[type[Exception], ErrorClass], ...]] = (
    (ssl.SSLCertVerificationError, ErrorClass(ErrorKind.CONNECT_FAILED, connection_lost=True)),
    (OSError, treatment(ErrorKind.CONNECTION_LOST)),
    (EOFError, treatment(ErrorKind.CONNECTION_LOST)),
    # A number too big for SQLite, a lone surrogate, a NUL in a string: the value doesn't fit.
    (ValueError, treatment(ErrorKind.DATA)),
    (ArithmeticError, treatment(ErrorKind.DATA)),
    (MemoryError, treatment(ErrorKind.RESOURCE)),
)


def is_python_error(error: BaseException) -> bool:
    """Return whether *error*, which is not a driver's, is one that Python raises in a driver."""
    return any(isinstance(error, cls) for cls, _ in _CLASSES)


def classify_python(error: BaseException, phase: Phase) -> ErrorClass | None:
    """Return the class of *error*, which is not a driver's; ``None`` if it is about the call, not about a statement."""
    if phase == "commit":
        # A signal handler's exception (a job queue's time limit, say) or an error inside the driver: the server may
        # have read the COMMIT nevertheless.
        return treatment(ErrorKind.OUTCOME_UNKNOWN)
    found = next((found for cls, found in _CLASSES if isinstance(error, cls)), None)
    if found is None and isinstance(error, LookupError):
        found = treatment(ErrorKind.DATA)  # a stored value that is not a member of its column's Enum
    if found is None:
        return None
    if isinstance(error, TimeoutError) and error.errno is None and phase != "connect":
        # One of our deadlines, not the operating system's; asyncio's is the same class without an errno, too.
        found = UNANSWERED
    if isinstance(error, ssl.SSLCertVerificationError) and phase == "connect":
        return ErrorClass(ErrorKind.CONNECT_FAILED)
    return in_phase(found, phase)
