"""One connection through the proxy, with the operations that faults use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from prefiq_db.testing.faults.framing import Framing, Message, Reply
from prefiq_db.testing.links import End, Link


class LinkProxy(Protocol):
    """The proxy that a link belongs to."""

    def decide(self, link: FaultyLink, message: Message) -> None: ...
    def note(self, link: FaultyLink, message: Message, step: str) -> None: ...
    def send(self, end: End, data: bytes) -> None: ...
    def part(self, end: End, *, reset: bool = False) -> None: ...
    def silence(self, link: Link) -> None: ...
    def reset_link(self, link: Link) -> None: ...
    def after(self, seconds: float, action: Callable[[], None]) -> None: ...


class FaultyLink:
    """The operations of a fault on one connection; all of them run in the proxy's thread.

    Attributes:
        number: counts the proxy's connections, from 1.
        fault: the name of the last fault that hit here.
    """

    def __init__(self, proxy: LinkProxy, link: Link, number: int, framing: Framing) -> None:
        self._proxy = proxy
        self._link = link
        self.number = number
        self._framing = framing
        self._held_message: Message | None = None
        self._held_reply: Reply | None = None
        self._silent = False
        self._delayed: tuple[Message, float] | None = None
        self._dropped: Message | None = None
        self._dropping = False
        self._bytes_left = 0
        self.fault = ""
        self._answered: tuple[Message, Callable[[], None]] | None = None

    # --- operations of faults --------------------------------------------------------------------

    def forward(self, message: Message, *, after_seconds: float = 0.0) -> None:
        """Pass a message on to the server; the client's later messages wait until then."""
        if after_seconds:
            self._hold(message)
            self._later(after_seconds, self._release_message)
            return
        self._framing.forwarded(message)
        self._proxy.send(self._link.server, message.raw)

    def forward_start(self, message: Message, size_bytes: int) -> None:
        """Pass on the first *size_bytes* of a message only: the server waits for the rest."""
        self._proxy.send(self._link.server, message.raw[:size_bytes])

    def delay_reply(self, message: Message, seconds: float) -> None:
        """Hold the answer to *message*, and everything after it, from its first byte on."""
        self._delayed = message, seconds

    def drop_reply(self, message: Message, *, after_bytes: int = 0) -> None:
        """Drop the answer to *message*, and everything after it, except the first *after_bytes*."""
        self._dropped, self._bytes_left = message, after_bytes

    def when_answered(self, message: Message, action: Callable[[], None]) -> None:
        """Run *action* when the server has answered *message* completely."""
        self._answered = message, action

    def cut_client(self, *, polite: bool = False) -> None:
        """Reset the client's connection, or close it with FIN (*polite*); the server isn't notified."""
        self._proxy.part(self._link.client, reset=not polite)

    def close_server(self, *, after_seconds: float = 0.0) -> None:
        """Close the server's side, as the client would."""
        if not after_seconds:
            self._proxy.part(self._link.server)
        elif after_seconds != float("inf"):
            self._later(after_seconds, self.close_server)

    def reset(self) -> None:
        """Reset both sides."""
        self._proxy.reset_link(self._link)

    def silence(self, message: Message | None = None) -> None:
        """Pass nothing on until the network is restored; *message* is the first one to wait."""
        if message is not None:
            self._hold(message)
        self._silent = True
        self._proxy.silence(self._link)

    def slice(self, size_bytes: int) -> None:
        """Send in pieces of *size_bytes*, both ways, until a message comes that no fault hits; 0: send whole again."""
        for end in self._link.ends:
            end.segment_bytes = size_bytes

    # --- called by the proxy ---------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a scheduled action is still to come."""
        return self._link.client.gone or self._answered is not None or (self._is_holding and not self._silent)

    @property
    def is_doomed(self) -> bool:
        """Whether its client is cut, or about to be: then no further fault hits it."""
        return self._link.client.gone or self._answered is not None

    def client_sent(self, data: bytes) -> None:
        self._framing.client_said(data)
        self._take_messages()

    def server_sent(self, data: bytes) -> None:
        self._framing.server_said(data)
        self._take_replies()

    def restored(self) -> None:
        if self._silent:
            self._silent = False
            if self._held_message is not None:
                self._release_message()

    # --- in order --------------------------------------------------------------------------------

    @property
    def _is_holding(self) -> bool:
        return self._held_message is not None or self._held_reply is not None

    def _take_messages(self) -> None:
        while self._held_message is None and self._link.is_open and (message := self._framing.next_message()):
            self._proxy.decide(self, message)
        if self._framing.said_instead:
            self._proxy.send(self._link.client, self._framing.said_instead)
            self._framing.said_instead = b""

    def _take_replies(self) -> None:
        while self._held_reply is None and self._link.is_open and (reply := self._framing.next_reply()):
            if self._delayed is not None and reply.request is self._delayed[0]:
                self._held_reply = reply
                self._link.client.awaits = True
                self._later(self._delayed[1], self._release_reply)
                self._delayed = None
            else:
                self._pass(reply)

    def _pass(self, reply: Reply) -> None:
        data = reply.raw
        if self._dropping or (self._dropped is not None and reply.request is self._dropped):
            self._dropping = True
            data = data[: self._bytes_left]
            self._bytes_left -= len(data)
        self._proxy.send(self._link.client, data)
        if self._answered is not None and reply.is_last and reply.request is self._answered[0]:
            message, action = self._answered
            self._answered = None
            self._proxy.note(self, message, "answered")
            action()

    def _hold(self, message: Message) -> None:
        self._held_message = message
        self._link.server.awaits = True

    def _release_message(self) -> None:
        message, self._held_message = self._held_message, None
        self._link.server.awaits = False
        if message is None:
            return
        self._proxy.note(self, message, "delivered")
        self.forward(message)
        self._take_messages()
        if self._link.client.gone:
            self._proxy.send(self._link.server, self._framing.rest_of_flight())
            if self._answered is None:  # the client left during the delay
                self.close_server()
        self._end_what_waited(self._link.server)

    def _release_reply(self) -> None:
        reply, self._held_reply = self._held_reply, None
        self._link.client.awaits = False
        if reply is not None:
            self._pass(reply)
            self._take_replies()
        self._end_what_waited(self._link.client)

    def _end_what_waited(self, end: End) -> None:
        """Make the proxy check again whether the other side has ended while this one was held."""
        self._proxy.send(end, b"")

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._proxy.after(seconds, lambda: action() if self._link.is_open else None)
