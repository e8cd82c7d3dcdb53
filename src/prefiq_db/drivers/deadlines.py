"""A deadline for each request to a server, so that a silent one can't block a caller for ever.

A driver's connection has ``patience_seconds``: the longest that one request may take from the first byte sent to the
last byte read. Why each driver keeps its own clock: docs/decisions/0060-why-each-driver-keeps-the-clock.md.
"""

from __future__ import annotations

from typing import Final

# Added to a limit that the server enforces as well, so that its own, more precise error normally comes first.
GRACE_SECONDS: Final = 0.3
# For a driver that can't wait without a limit; our connections get a real limit before they are used.
UNBOUNDED_SECONDS: Final = 31_536_000.0


class DeadlinePassed(Exception):  # noqa: N818 - what happened, not a wrong; each driver's error of that name is one
    """Mixed into a driver's error: our own clock ended the request and closed the connection."""
