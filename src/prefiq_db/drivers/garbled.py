"""Malformed replies, which PyMySQL and asyncmy answer with assorted Python errors."""

from __future__ import annotations

import struct
from typing import Any, Final

from prefiq_db.interruptions import is_interruption

_MALFORMED: Final = 2027  # CR_MALFORMED_PACKET
# The server converts all its texts to the session's UTF-8.
_STUMBLES: Final = (LookupError, AssertionError, AttributeError, TypeError, UnicodeDecodeError, struct.error)


def as_garbled(error: Exception, kind: Any, *, greeting: bool = False) -> Exception:
    """Return the driver's own error, of class *kind*, if *error* means a malformed reply; else *error* itself.

    Args:
        greeting: no value was sent yet, so that a ValueError comes from the server's data, too.
    """
    stumbled = isinstance(error, (*_STUMBLES, ValueError) if greeting else _STUMBLES)
    if not stumbled or is_interruption(error):
        return error
    made: Exception = kind(_MALFORMED, "Malformed packet")
    return made
