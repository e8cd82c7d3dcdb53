"""A deadline for each conversation with a server, so that a silent one can't hold anybody for ever.

A driver's connection has ``patience_seconds``: the longest that one request may take from the first byte sent to the
last byte read. Why each driver keeps its own clock: docs/decisions/0060-why-each-driver-keeps-the-clock.md.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

# Added to a limit that the server keeps as well, so that its own error, which says more, normally comes first.
GRACE_SECONDS: Final = 0.3
# To a driver that takes no "for ever"; a connection of ours has a limit before anybody sees it.
UNBOUNDED_SECONDS: Final = 31_536_000.0


class DeadlinePassed(Exception):  # noqa: N818 - what happened, not a wrong; each driver's error of that name is one
    """Mixed into a driver's error: our own clock ended the conversation, and the connection with it."""


@dataclass(slots=True)
class Shares:
    """A limit for several tries, each of which gets a fair part of what is left of it.

    Attributes:
        until: when the last try must have ended, on the monotonic clock.
        tries: how many are still to come; one more than expected gets all that is left.
    """

    until: float
    tries: int

    @classmethod
    def of(cls, seconds: float, tries: int) -> Shares:
        return cls(time.monotonic() + seconds, tries)

    def next(self) -> float:
        """Return when the next try must have ended, on the monotonic clock."""
        now = time.monotonic()
        share = max(0.0, self.until - now) / max(1, self.tries)
        self.tries -= 1
        return now + share


def is_name(host: str) -> bool:
    """Return whether *host* has to be looked up: it is neither an address nor the folder of a Unix socket."""
    if not host or host.startswith(("/", "@")):
        return False
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


def addresses_of(host: str, port: int, seconds: float) -> list[tuple[Any, ...]]:
    """Return what ``socket.getaddrinfo`` returns for TCP, within *seconds*.

    The system's resolver can't be interrupted, so a name is looked up in a thread that is left alone when it is late;
    it ends when the resolver gives up.

    Raises:
        OSError: the name is unknown.
        TimeoutError: the resolver didn't answer in time.
    """
    if not is_name(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found: list[list[tuple[Any, ...]] | OSError] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=look_up, name="prefiq_db resolver", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if not found:
        raise TimeoutError("the host's name was not resolved in time")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]
