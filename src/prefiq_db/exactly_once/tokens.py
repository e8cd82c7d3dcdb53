"""Tokens: UUIDs of version 7, which contain their creation time (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import time
import uuid
import zlib
from typing import Any, Final

from prefiq_db.errors import UsageError

#: How long the outcome of a token can be looked up.
RETENTION_SECONDS: Final = 86_400.0
#: How much longer its row is kept: clocks differ, and a removed row looks like one that never existed.
MARGIN_SECONDS: Final = 3_600.0

_VERSION_7: Final = 7 << 76
_VARIANT: Final = 2 << 62
_MARK: Final = (1 << 16) - 1
_RANDOM: Final = (1 << 80) - 1 & ~(0xF << 76) & ~(3 << 62) & ~_MARK


def new_token(database: str = "") -> str:
    """Return a new, unique token. Its last four digits are a mark of the name *database*, so that no other is believed
    when it says that it doesn't know the token; "" leaves it unmarked.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big") & _RANDOM
    return str(uuid.UUID(int=milliseconds << 80 | _VERSION_7 | _VARIANT | random | _mark(database)))


def may_be_of(token: str, database: str) -> bool:
    """Return whether *token* can have been made for a database of that name."""
    mark = uuid.UUID(token).int & _MARK
    return mark in (0, _mark(database))


def _mark(database: str) -> int:
    return 1 + zlib.crc32(database.casefold().encode()) % _MARK if database else 0


def issued_at(token: str) -> float:
    """Return when *token* was created, in seconds since 1970, by its creator's clock."""
    return (uuid.UUID(token).int >> 80) / 1000


def is_kept(token: str, now: float) -> bool:
    """Return whether the row of *token*, if it was ever written, is certain to still exist."""
    return now - issued_at(token) <= RETENTION_SECONDS


def check_token(token: Any) -> str:
    """Return *token* in canonical form.

    Raises:
        UsageError: if it is not one of our tokens; the message doesn't quote it.
    """
    try:
        made = token if isinstance(token, uuid.UUID) else uuid.UUID(token)
    except (ValueError, TypeError, AttributeError):
        made = None
    if made is None or made.version != 7:
        raise UsageError("token: expected the token of an OutcomeUnknownError or of a transaction (a UUID, version 7)")
    return str(made)
