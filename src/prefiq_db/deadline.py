"""Deadlines: by when something must have ended, how long it was given, and by which limit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

#: The limit of whoever calls: ``using(timeout=...)``, ``override(timeout=...)``, ``transaction(timeout=...)``.
OWN_TIMEOUT: Final = "your own timeout="

#: The setting that bounds connecting.
CONNECT_TIMEOUT: Final = "connect_timeout_seconds"


class Deadline:
    """A moment on the monotonic clock; work that is given one ends by then.

    It is made once, where a limit enters, and handed on as it is: whoever waits on the way asks what is left.

    Attributes:
        at: the moment.
        seconds: how long the work was given, for messages.
        limit_name: the limit it comes from, for messages: ``connect_timeout_seconds``. Empty where no message tells.
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
        """Return the seconds that are left; *at_least* that many, where 0 would mean something else."""
        return max(at_least, self.at - time.monotonic())

    @property
    def has_passed(self) -> bool:
        return time.monotonic() >= self.at

    def sooner_of(self, other: Deadline | None) -> Deadline:
        """Return the one of the two that passes first; ``None`` never does."""
        return self if other is None or self.at <= other.at else other

    def share(self, tries: int) -> Deadline:
        """Return the deadline of the next of *tries* tries: each gets a fair part of what is left."""
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
    """Return the one of the two that passes first; ``None`` where neither limits anything."""
    return other if one is None else one.sooner_of(other)


@dataclass(slots=True)
class Shares:
    """One deadline for several tries, each of which gets a fair part of what is left.

    Attributes:
        deadline: by when the last try must have ended.
        tries: how many are still to come; one more than expected gets all that is left.
    """

    deadline: Deadline
    tries: int

    def next(self) -> Deadline:
        """Return the deadline of the next try."""
        share = self.deadline.share(self.tries)
        self.tries -= 1
        return share
