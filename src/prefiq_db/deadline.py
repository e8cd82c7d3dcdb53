"""Deadlines: when work must have ended, how long it was given, and which limit set that."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

#: The caller's own limit: ``using(timeout=...)``, ``override(timeout=...)``, ``transaction(timeout=...)``.
OWN_TIMEOUT: Final = "your own timeout="

#: The setting that bounds connecting.
CONNECT_TIMEOUT: Final = "connect_timeout_seconds"


class Deadline:
    """A moment on the monotonic clock by which work must have ended.

    It is created once, where a limit is set, and passed on unchanged: each wait asks for the seconds that are left.

    Attributes:
        at: the moment.
        seconds: how long the work was given, for messages.
        limit_name: the limit it comes from, for messages: ``connect_timeout_seconds``. Empty if no message needs it.
    """

    __slots__ = ("at", "limit_name", "seconds")

    def __init__(self, at: float, seconds: float, limit_name: str = "") -> None:
        self.at = at
        self.seconds = seconds
        self.limit_name = limit_name

    def __repr__(self) -> str:
        return f"<Deadline in {self.left():.3g} s, of {self.seconds:g} s {self.limit_name}>"

    @classmethod
    def after(cls, seconds: float, limit_name: str = "") -> Deadline:
        """Return the deadline that is *seconds* from now."""
        return cls(time.monotonic() + seconds, seconds, limit_name)

    def left(self, at_least: float = 0.0) -> float:
        """Return the seconds that are left, but *at_least* that many, for APIs where 0 has another meaning."""
        return max(at_least, self.at - time.monotonic())

    @property
    def has_passed(self) -> bool:
        return time.monotonic() >= self.at

    def sooner_of(self, other: Deadline | None) -> Deadline:
        """Return the earlier of the two; ``None`` means no deadline."""
        return self if other is None or self.at <= other.at else other

    def share(self, tries: int) -> Deadline:
        """Return the deadline of the next of *tries* attempts: each gets an equal share of the time left."""
        now = time.monotonic()
        seconds = max(0.0, self.at - now) / max(1, tries)
        return Deadline(now + seconds, seconds, self.limit_name)


def own_deadline(timeout_seconds: float | None, since: float | None = None) -> Deadline | None:
    """Return the deadline of the caller's own ``timeout=``, from now or *since* a moment; ``None`` without a limit."""
    if timeout_seconds is None:
        return None
    started = time.monotonic() if since is None else since
    return Deadline(started + timeout_seconds, timeout_seconds, OWN_TIMEOUT)


def sooner(one: Deadline | None, other: Deadline | None) -> Deadline | None:
    """Return the earlier of the two; ``None`` if there is neither."""
    return other if one is None else one.sooner_of(other)


@dataclass(slots=True)
class Shares:
    """One deadline for several attempts, each of which gets an equal share of the time left.

    Attributes:
        deadline: when the last attempt must have ended.
        tries: how many attempts remain; any further one gets all the time left.
    """

    deadline: Deadline
    tries: int

    def next(self) -> Deadline:
        """Return the deadline of the next attempt."""
        share = self.deadline.share(self.tries)
        self.tries -= 1
        return share
