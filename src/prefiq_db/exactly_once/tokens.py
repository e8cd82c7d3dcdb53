"""Tokens: UUIDs of version 7, so that one tells when it was made (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import time
import uuid
from typing import Any, Final

from prefiq_db.errors import UsageError

#: How long a token can be asked for.
RETENTION_SECONDS: Final = 86_400.0
#: How much longer its row is kept: clocks differ, and a row that is gone looks like one that never was.
MARGIN_SECONDS: Final = 3_600.0

_VERSION_7: Final = 7 << 76
_VARIANT: Final = 2 << 62
_RANDOM: Final = (1 << 80) - 1 & ~(0xF << 76) & ~(3 << 62)


def new_token() -> str:
    """Return a token that nobody else has."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big") & _RANDOM
    return str(uuid.UUID(int=milliseconds << 80 | _VERSION_7 | _VARIANT | random))


def issued_at(token: str) -> float:
    """Return when *token* was made, in seconds since 1970, by the clock of whoever made it."""
    return (uuid.UUID(token).int >> 80) / 1000


def is_kept(token: str, now: float) -> bool:
    """Return whether the row of *token* is certain to be there still, if it ever was."""
    return now - issued_at(token) <= RETENTION_SECONDS


def checked_token(token: Any) -> str:
    """Return *token* in its usual form.

    Raises:
        UsageError: if it is not a token of ours; the message doesn't repeat it.
    """
    try:
        made = token if isinstance(token, uuid.UUID) else uuid.UUID(token)
    except (ValueError, TypeError, AttributeError):
        made = None
    if made is None or made.version != 7:
        raise UsageError("token: expected the token of an OutcomeUnknownError or of a transaction (a UUID, version 7)")
    return str(made)
