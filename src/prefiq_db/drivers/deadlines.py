"""A deadline for each conversation with a server, so that a silent one can't hold anybody for ever.

A driver's connection has ``patience_seconds``: the longest that one request may take from the first byte sent to the
last byte read. Why each driver keeps its own clock: docs/decisions/0060-why-each-driver-keeps-the-clock.md.
"""

from __future__ import annotations

from typing import Final

# Added to a limit that the server keeps as well, so that its own error, which says more, normally comes first.
GRACE_SECONDS: Final = 0.3
# To a driver that takes no "for ever"; a connection of ours has a limit before anybody sees it.
UNBOUNDED_SECONDS: Final = 31_536_000.0


class DeadlinePassed(Exception):  # noqa: N818 - what happened, not a wrong; each driver's error of that name is one
    """Mixed into a driver's error: our own clock ended the conversation, and the connection with it."""
