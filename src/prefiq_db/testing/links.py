"""The connections that go through a proxy."""

from __future__ import annotations

import socket


class End:
    """One of the two sockets of a link."""

    def __init__(self, link: Link, connection: socket.socket, *, connecting: bool = False) -> None:
        self.link = link
        self.socket = connection
        self.connecting = connecting
        self.ended = False  # it will send no more
        self.gone = False  # its socket is closed, but the link still exists
        self.awaits = False  # more will be written to it later, so its peer's end must not be passed on yet
        self.outgoing = bytearray()  # not yet written to its socket
        self.segment_bytes = 0  # the maximum in one segment; 0: no limit
        self.interest = 0

    @property
    def peer(self) -> End:
        return self.link.server if self is self.link.client else self.link.client


class Link:
    """One connection of a client through the proxy to the server."""

    client: End
    server: End

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = End(self, client)
        self.server = End(self, server, connecting=True)
        self.is_open = True
        self.silent = False  # nothing is read and nothing is written

    @property
    def ends(self) -> tuple[End, End]:
        return self.client, self.server
