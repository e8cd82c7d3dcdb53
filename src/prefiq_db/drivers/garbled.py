"""A reply that is none of the protocol's: what PyMySQL and asyncmy stumble over when they read it."""

from __future__ import annotations

import struct
from typing import Any, Final

from prefiq_db.interruptions import is_interruption

_MALFORMED: Final = 2027  # CR_MALFORMED_PACKET
# The server makes the session's UTF-8 of all its texts.
_STUMBLES: Final = (LookupError, AssertionError, AttributeError, TypeError, UnicodeDecodeError, struct.error)


def as_garbled(error: Exception, kind: Any, *, greeting: bool = False) -> Exception:
    """Return the driver's own error, of class *kind*, for *error*, if that says that the reply could not be read.

    Args:
        greeting: nobody has sent a value yet, so that one which doesn't fit is the server's, too.
    """
    stumbled = isinstance(error, (*_STUMBLES, ValueError) if greeting else _STUMBLES)
    if not stumbled or is_interruption(error):
        return error
    made: Exception = kind(_MALFORMED, "Malformed packet")
    return made
