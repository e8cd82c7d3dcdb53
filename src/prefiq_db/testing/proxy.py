"""A TCP proxy on the loopback that passes bytes on unchanged; subclasses observe or change them.

One thread moves everything, so a subclass sees events in one order and needs no lock.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
from collections.abc import Callable
from urllib.parse import urlsplit

from prefiq_db.testing.links import End, Link
from prefiq_db.testing.loop_thread import LoopThread
from prefiq_db.testing.machine import LOOPBACK, free_port

_CHUNK_BYTES = 65536
_MAX_BUFFERED_BYTES = 262144
# Close with a reset (RST) instead of FIN.
_RESET = struct.pack("ii", 1, 0)


class TcpProxy(LoopThread):
    """Pass connections on to ``host:port``; use it as a context manager.

    Subclasses override :meth:`client_sent`, :meth:`server_sent`, :meth:`link_restored` and :meth:`link_closed`, which
    run in the proxy's thread. There they may call :meth:`after`, :meth:`send`, :meth:`part`, :meth:`silence` and
    :meth:`reset_link`; other threads must use :meth:`call` for these.
    """

    host = LOOPBACK

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._target = (host, port)
        self.port = 0
        self._links: list[Link] = []
        self._listener: socket.socket | None = None
        self._silent = False

    # --- for subclasses --------------------------------------------------------------------------

    def client_sent(self, link: Link, data: bytes) -> bytes:
        """Return the bytes that the server gets for *data*."""
        return data

    def server_sent(self, link: Link, data: bytes) -> bytes:
        """Return the bytes that the client gets for *data*."""
        return data

    def link_closed(self, link: Link) -> None:
        """Handle the end of a connection."""

    def link_restored(self, link: Link) -> None:
        """Handle the end of a connection's silence."""

    def send(self, end: End, data: bytes) -> None:
        """Pass *data* on to one end of a link, as soon as it accepts it; do nothing if it is gone."""
        if not end.gone and end.link.is_open:
            end.outgoing += data
            self._attempt(end, self._flush)

    def part(self, end: End, *, reset: bool = False) -> None:
        """Close one end's socket; the other end isn't notified, and what it sends from now on is lost."""
        if end.gone or not end.link.is_open:
            return
        end.gone = end.ended = True
        end.connecting = False
        end.outgoing.clear()
        if reset:
            self._arm_reset(end)
        else:
            # Closing a socket with unread bytes in it resets the connection.
            with contextlib.suppress(OSError):
                while end.socket.recv(_CHUNK_BYTES):
                    pass
        self._unregister(end)
        end.socket.close()
        self._attempt(end.peer)

    def silence(self, link: Link) -> None:
        """Pass nothing on in either direction, not even an end, until :meth:`restore`."""
        link.silent = True
        self._attempt(link.client)

    def reset_link(self, link: Link) -> None:
        """Reset a connection on both sides."""
        self._reset(link)

    # --- for tests -------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self.call(lambda: len(self._links))

    def url(self, original: str) -> str:
        """Return *original* with the proxy in place of the server."""
        parts = urlsplit(original)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{self.host}:{self.port}").geturl()

    def cut_all(self) -> None:
        """Reset every open connection, on both sides. New ones are accepted."""
        self.call(self._reset_all)

    def black_hole(self) -> None:
        """Pass nothing on from now on: sockets stay open, and neither side sees that the other closes.

        The system accepts new connections, and they get no answer.
        """
        self.call(lambda: self._set_silent(True))

    def restore(self) -> None:
        """End every silence. What was sent in the meantime arrives now, as after a network repair; ends do, too."""
        self.call(lambda: self._set_silent(False))

    def refuse(self) -> None:
        """Refuse new connections, as a closed port does. Open ones stay."""
        self.call(self._close_listener)

    def accept(self) -> None:
        """Accept new connections again."""
        self.call(self._listen)

    # --- the loop --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._listen()

    def _end(self) -> None:
        self._reset_all()
        self._close_listener()
        self._silent = False

    def _serve(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fileobj is self._listener:
            self._welcome()
        elif isinstance(key.data, End) and key.data.link.is_open:
            self._serve_end(key.data, events)

    def _serve_end(self, end: End, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._attempt(end, self._connected, self._flush)
        if events & selectors.EVENT_READ:
            if end is end.link.server:
                # What the client sent until now, it sent without having seen this answer.
                self._attempt(end.peer, self._receive)
            self._attempt(end, self._receive)

    def _attempt(self, end: End, *steps: Callable[[End], None]) -> None:
        """Run *steps* for one end and register for its next events; if one fails, the connection is lost."""
        try:
            for step in steps:
                if end.link.is_open:
                    step(end)
            if end.link.is_open:
                self._settle(end.link)
        except OSError:
            if end is end.link.client and end.peer.awaits:
                self.part(end)  # what it sent before is still delivered
            else:
                self._reset(end.link)

    def _connected(self, end: End) -> None:
        if not end.connecting:
            return
        if problem := end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(problem, "the server can't be reached")
        end.connecting = False

    def _receive(self, end: End) -> None:
        if not self._may_read(end):
            return
        try:
            data = end.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            end.ended = True
            return
        watch = self.client_sent if end is end.link.client else self.server_sent
        passed = watch(end.link, data)
        if end.link.is_open and not end.peer.gone:
            end.peer.outgoing += passed
            self._flush(end.peer)

    def _is_silent(self, link: Link) -> bool:
        return self._silent or link.silent

    def _may_read(self, end: End) -> bool:
        if end.ended or end.connecting or not end.link.is_open or self._is_silent(end.link):
            return False
        return end.peer.gone or len(end.peer.outgoing) < _MAX_BUFFERED_BYTES

    def _may_write(self, end: End) -> bool:
        return not (end.gone or self._is_silent(end.link)) and (end.connecting or bool(end.outgoing))

    def _flush(self, end: End) -> None:
        if end.connecting or end.gone or self._is_silent(end.link):
            return
        while end.outgoing:
            try:
                sent = end.socket.send(end.outgoing[: end.segment_bytes] if end.segment_bytes else end.outgoing)
            except BlockingIOError:
                return
            del end.outgoing[:sent]
            if end.segment_bytes and end.outgoing:
                return  # the next segment goes with the next turn of the loop: the receiver may have taken this one
        self._pass_the_end_on(end)

    def _pass_the_end_on(self, end: End) -> None:
        if end.connecting or end.gone or end.outgoing or self._is_silent(end.link):
            return
        if end.peer.ended and not end.peer.gone and not end.awaits:
            # The other side closed, and everything it sent was passed on. ENOTCONN: this side closed in the meantime.
            try:
                end.socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise

    def _settle(self, link: Link) -> None:
        """Register for the events that we can use now, and end a link that both sides ended."""
        for end in link.ends:
            self._pass_the_end_on(end)
        if all(end.ended and not end.outgoing and (end.peer.gone or not end.awaits) for end in link.ends):
            self._forget(link)
            return
        for end in link.ends:
            interest = selectors.EVENT_READ * self._may_read(end) | selectors.EVENT_WRITE * self._may_write(end)
            if interest == end.interest:
                continue
            if not end.interest:
                self._selector.register(end.socket, interest, end)
            elif not interest:
                self._selector.unregister(end.socket)
            else:
                self._selector.modify(end.socket, interest, end)
            end.interest = interest

    # --- links -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.port = self.port or free_port()
            listener.bind((LOOPBACK, self.port))
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        if not self._silent:
            self._selector.register(listener, selectors.EVENT_READ)
        self._listener = listener

    def _close_listener(self) -> None:
        if self._listener is not None:
            if not self._silent:
                self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _set_silent(self, silent: bool) -> None:
        if self._listener is not None and silent != self._silent:
            if silent:
                self._selector.unregister(self._listener)
            else:
                self._selector.register(self._listener, selectors.EVENT_READ)
        self._silent = silent
        for link in list(self._links):
            if not silent:
                link.silent = False
                self.link_restored(link)
            self._attempt(link.client, self._flush)
            self._attempt(link.server, self._flush)

    def _welcome(self) -> None:
        if self._listener is None:
            return
        try:
            client, _ = self._listener.accept()
        except OSError:  # it closed while it waited
            return
        server = socket.socket()
        link = Link(client, server)
        self._links.append(link)
        for connection in (client, server):
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        problem = server.connect_ex(self._target)
        if problem not in (0, errno.EINPROGRESS):
            self._reset(link)
        else:
            self._settle(link)

    def _reset_all(self) -> None:
        for link in list(self._links):
            self._reset(link)

    def _reset(self, link: Link) -> None:
        for end in link.ends:
            self._arm_reset(end)
        self._forget(link)

    def _arm_reset(self, end: End) -> None:
        with contextlib.suppress(OSError):
            end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _unregister(self, end: End) -> None:
        if end.interest:
            self._selector.unregister(end.socket)
            end.interest = 0

    def _forget(self, link: Link) -> None:
        if not link.is_open:
            return
        link.is_open = False
        for end in link.ends:
            self._unregister(end)
            end.socket.close()
        self._links.remove(link)
        self.link_closed(link)
