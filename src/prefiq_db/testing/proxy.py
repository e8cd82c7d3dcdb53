"""A TCP proxy on the loopback that passes bytes on unchanged; subclasses watch them or interfere.

One thread moves everything, so what a subclass sees has one order, and no lock is needed.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from prefiq_db.testing.server import free_port

T = TypeVar("T")

_HOST = "127.0.0.1"
_CHUNK_BYTES = 65536
_MAX_BUFFERED_BYTES = 262144
_CALL_SECONDS = 10.0
_MAX_ROUNDS_BEFORE_COMMANDS = 100
# Close with a reset instead of a polite end.
_RESET = struct.pack("ii", 1, 0)


class End:
    """One of the two sockets of a link."""

    def __init__(self, link: Link, connection: socket.socket, *, connecting: bool = False) -> None:
        self.link = link
        self.socket = connection
        self.connecting = connecting
        self.ended = False  # it will send no more
        self.outgoing = bytearray()  # what it has not taken yet
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


class TcpProxy:
    """Pass connections to ``host:port`` on; use it as a context manager.

    Subclasses override :meth:`client_sent`, :meth:`server_sent` and :meth:`link_closed`, which run in the proxy's
    thread.
    """

    host = _HOST

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = 0
        self._links: list[Link] = []
        self._listener: socket.socket | None = None
        self._commands: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = False

    # --- for subclasses --------------------------------------------------------------------------

    def client_sent(self, link: Link, data: bytes) -> bytes:
        """Return what the server gets of *data*."""
        return data

    def server_sent(self, link: Link, data: bytes) -> bytes:
        """Return what the client gets of *data*."""
        return data

    def link_closed(self, link: Link) -> None:
        """Take note that a connection is gone."""

    def call(self, action: Callable[[], T]) -> T:
        """Run *action* in the proxy's thread, after everything that was sent to the proxy before; return its result."""
        if self._thread is None or threading.current_thread() is self._thread:
            return action()
        future: Future[T] = Future()
        self._commands.put((action, future))
        self._wake()
        return future.result(_CALL_SECONDS)

    # --- for tests -------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self.call(lambda: len(self._links))

    def url(self, original: str) -> str:
        """Return *original* with the proxy in the place of the server."""
        parts = urlsplit(original)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}{self.host}:{self.port}").geturl()

    def cut_all(self) -> None:
        """Reset every open connection, on both sides. New ones are welcome."""
        self.call(self._reset_all)

    def refuse(self) -> None:
        """Refuse new connections, as if nobody listened on the port. Open ones live on."""
        self.call(self._close_listener)

    def accept(self) -> None:
        """Take new connections again."""
        self.call(self._listen)

    def start(self) -> Self:
        """Listen on a free port."""
        if self._thread is None:
            self._stopping = False
            self._selector = selectors.DefaultSelector()
            self._wake_receiver, self._wake_sender = socket.socketpair()
            self._wake_receiver.setblocking(False)
            self._selector.register(self._wake_receiver, selectors.EVENT_READ)
            self._listen()
            self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Reset what is open and stop listening."""
        if self._thread is None:
            return
        self._stopping = True
        self._wake()
        self._thread.join()
        self._thread = None
        self._wake_receiver.close()
        self._wake_sender.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # --- the loop --------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._wake_sender.send(b"\0")

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._move(None)
                if not self._commands.empty():
                    self._run_commands()
        finally:
            self._reset_all()
            self._close_listener()
            self._run_commands()
            self._selector.close()

    def _run_commands(self) -> None:
        commands = [self._commands.get() for _ in range(self._commands.qsize())]
        # Whoever calls may just have connected and sent bytes that nobody answers: see them first. A stream never
        # ends, so there is a limit.
        for _ in range(_MAX_ROUNDS_BEFORE_COMMANDS):
            if not self._move(0):
                break
        for action, future in commands:
            try:
                result = action()
            except Exception as error:  # noqa: BLE001 - it belongs to the caller
                future.set_exception(error)
            else:
                future.set_result(result)

    def _move(self, timeout_seconds: float | None) -> bool:
        """Wait for events and serve them; return whether there were any."""
        ready = self._selector.select(timeout_seconds)
        for key, events in ready:
            if key.fileobj is self._wake_receiver:
                with contextlib.suppress(BlockingIOError):
                    self._wake_receiver.recv(_CHUNK_BYTES)
            elif key.fileobj is self._listener:
                self._welcome()
            elif isinstance(key.data, End) and key.data.link.is_open:
                self._serve(key.data, events)
        return bool(ready)

    def _serve(self, end: End, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                if end.connecting:
                    self._connected(end)
                self._flush(end)
            if events & selectors.EVENT_READ:
                if end is end.link.server:
                    # What the client sent until now, it sent without having seen this answer.
                    self._receive(end.peer)
                self._receive(end)
            self._settle(end.link)
        except OSError:
            self._reset(end.link)

    def _connected(self, end: End) -> None:
        if problem := end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(problem, "the server can't be reached")
        end.connecting = False

    def _receive(self, end: End) -> None:
        if end.ended or end.connecting or len(end.peer.outgoing) >= _MAX_BUFFERED_BYTES:
            return
        try:
            data = end.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            end.ended = True
            return
        watch = self.client_sent if end is end.link.client else self.server_sent
        end.peer.outgoing += watch(end.link, data)
        self._flush(end.peer)

    def _flush(self, end: End) -> None:
        if end.connecting:
            return
        while end.outgoing:
            try:
                sent = end.socket.send(end.outgoing)
            except BlockingIOError:
                return
            del end.outgoing[:sent]
        if end.peer.ended:
            # The other side closed and everything it said has been passed on. ENOTCONN: this side went meanwhile.
            try:
                end.socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise

    def _settle(self, link: Link) -> None:
        """Ask for the events we can use now, and end a link that both sides ended."""
        for end in (link.client, link.server):
            if end.peer.ended:
                self._flush(end)
        if link.client.ended and link.server.ended and not (link.client.outgoing or link.server.outgoing):
            self._forget(link)
            return
        for end in (link.client, link.server):
            reading = not end.ended and not end.connecting and len(end.peer.outgoing) < _MAX_BUFFERED_BYTES
            writing = end.connecting or bool(end.outgoing)
            interest = selectors.EVENT_READ * reading | selectors.EVENT_WRITE * writing
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
            listener.bind((_HOST, self.port))
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        self._selector.register(listener, selectors.EVENT_READ)
        self._listener = listener

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _welcome(self) -> None:
        if self._listener is None:
            return
        try:
            client, _ = self._listener.accept()
        except OSError:  # it left while it waited
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
        for end in (link.client, link.server):
            with contextlib.suppress(OSError):
                end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._forget(link)

    def _forget(self, link: Link) -> None:
        if not link.is_open:
            return
        link.is_open = False
        for end in (link.client, link.server):
            if end.interest:
                self._selector.unregister(end.socket)
            end.socket.close()
        self._links.remove(link)
        self.link_closed(link)
