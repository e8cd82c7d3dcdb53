"""Whether a socket has something to read, asked without waiting."""

from __future__ import annotations

import os
import select


def is_readable(descriptor: int) -> bool:
    """Return whether a read from the socket *descriptor* would not wait; ``True`` for one that is closed (negative)."""
    if descriptor < 0:
        return True
    if os.name == "nt":
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
