"""Whether a socket has something to read, asked without waiting."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Any, Final

# Set on a driver's error, for translate(): the other end had ended the connection before the request was sent.
UNSENT: Final = "prefiq_db_unsent"


def is_readable(descriptor: int) -> bool:
    """Return whether a read from the socket *descriptor* would not wait; ``True`` for one that is closed (negative)."""
    if descriptor < 0:
        return True
    if os.name == "nt":
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def poller_of(descriptor: int) -> Callable[[int], Any]:
    """Return a function that answers as :func:`is_readable` when called with 0: for a socket that is asked again."""
    if os.name == "nt":
        return lambda wait: select.select([descriptor], [], [], wait)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return poll.poll
