"""Faults for a message: one frozen dataclass each.

Any object with such a ``strike`` method is a fault; :class:`FaultyLink` has the operations for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

from prefiq_db.errors import UsageError
from prefiq_db.testing.faults.framing import Message
from prefiq_db.testing.faults.link import FaultyLink


class Fault(Protocol):
    """A fault that hits a message and its connection."""

    def strike(self, link: FaultyLink, message: Message) -> None:
        """Apply the fault; *message* has not been passed on yet. Runs in the proxy's thread and must not wait."""


class _Checked:
    """A fault whose numbers are not negative."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # each subclass is a dataclass
            if getattr(self, field.name) < 0:
                raise UsageError(f"{type(self).__name__}: {field.name} must not be negative")


@dataclass(frozen=True, slots=True)
class CutRequest(_Checked):
    """The message never reaches the server, or half of it does, and the client's connection is cut.

    Attributes:
        after_bytes: how many bytes of the message arrive before; by default none.
        polite: end the client's connection (FIN) instead of resetting it (RST).
        zombie_seconds: how long the server's side stays open afterwards, with its transaction and locks. Default: it
            is closed at once, and the server rolls back. ``inf``: until :meth:`FaultProxy.cut_all` or the end.
    """

    after_bytes: int = 0
    polite: bool = False
    zombie_seconds: float = 0.0

    def strike(self, link: FaultyLink, message: Message) -> None:
        if self.after_bytes:
            link.forward_start(message, min(self.after_bytes, len(message.raw) - 1))
        link.cut_client(polite=self.polite)
        link.close_server(after_seconds=self.zombie_seconds)


@dataclass(frozen=True, slots=True)
class CutReply(_Checked):
    """The message reaches the server, its reply is dropped, and the client's connection is cut when it is complete.

    Attributes:
        after_bytes: how many bytes of the reply arrive before.
        polite: end the client's connection (FIN) instead of resetting it (RST).
        zombie_seconds: how long the server's side stays open after its reply. Default: it is closed at once.
    """

    after_bytes: int = 0
    polite: bool = False
    zombie_seconds: float = 0.0

    def strike(self, link: FaultyLink, message: Message) -> None:
        def cut() -> None:
            link.cut_client(polite=self.polite)
            link.close_server(after_seconds=self.zombie_seconds)

        link.drop_reply(message, after_bytes=self.after_bytes)
        link.when_answered(message, cut)
        link.forward(message)


@dataclass(frozen=True, slots=True)
class Reset:
    """The message goes to the server and both sides are reset at once: the server may or may not run it."""

    def strike(self, link: FaultyLink, message: Message) -> None:
        link.forward(message)
        link.reset()


@dataclass(frozen=True, slots=True)
class Delay(_Checked):
    """The message, or its reply, comes late, and so does everything after it."""

    request_seconds: float = 0.0
    reply_seconds: float = 0.0

    def strike(self, link: FaultyLink, message: Message) -> None:
        if self.reply_seconds:
            link.delay_reply(message, self.reply_seconds)
        link.forward(message, after_seconds=self.request_seconds)


@dataclass(frozen=True, slots=True)
class BlackHole:
    """From this message on nothing passes, in either direction, and the sockets stay open.

    :meth:`FaultProxy.restore` restores the network: what was sent in the meantime, this message too, arrives then.

    Attributes:
        delivered: the message itself still reaches the server; its reply doesn't come back.
    """

    delivered: bool = False

    def strike(self, link: FaultyLink, message: Message) -> None:
        if self.delivered:
            link.forward(message)
            link.silence()
        else:
            link.silence(message)


@dataclass(frozen=True, slots=True)
class DeliverLate(_Checked):
    """The client's connection is cut now, and the message reaches the server later: the late COMMIT.

    The server's side stays open until then, with its transaction and locks, and is closed when the server has answered.

    Attributes:
        after_seconds: when the message is delivered.
        polite: end the client's connection (FIN) instead of resetting it (RST).
    """

    after_seconds: float = 1.0
    polite: bool = False

    def strike(self, link: FaultyLink, message: Message) -> None:
        link.when_answered(message, link.close_server)
        link.forward(message, after_seconds=self.after_seconds)
        link.cut_client(polite=self.polite)


@dataclass(frozen=True, slots=True)
class Slice(_Checked):
    """The message and its reply come in pieces of *size_bytes*, each in a separate segment."""

    size_bytes: int = 1

    def strike(self, link: FaultyLink, message: Message) -> None:
        link.slice(self.size_bytes)
        link.forward(message)
