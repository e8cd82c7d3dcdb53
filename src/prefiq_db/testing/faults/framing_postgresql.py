"""PostgreSQL's messages: a type byte and a length, except the first one. Protocol 3.x, unencrypted."""

from __future__ import annotations

import struct

from prefiq_db.testing.faults.framing import Framing, Message, Reply

_PROTOCOL_MAJOR = 3
# Sent before the first message; the answer is a byte. We refuse in the server's place, or we couldn't read the traffic.
_ENCRYPTION_REQUESTS = {80877103, 80877104}
_CANCEL_REQUEST = 80877102
_LENGTH_BYTES = 4
_NAMES = {
    **{b"Q": "Query", b"P": "Parse", b"B": "Bind", b"E": "Execute", b"S": "Sync", b"D": "Describe", b"C": "Close"},
    **{b"H": "Flush", b"X": "Terminate", b"F": "FunctionCall", b"p": "password"},
    **{b"d": "CopyData", b"c": "CopyDone", b"f": "CopyFail"},
}
# Messages that the server may send at any time.
_UNASKED = {b"N", b"A"}
_ENDS_AN_EXECUTE = {b"C", b"I", b"s", b"E"}


class PostgresFraming(Framing):
    """A request is a ``Query``, an ``Execute`` of the extended protocol, a ``FunctionCall`` or the login.

    An ``Execute`` has the statement of its portal, so a COMMIT that was prepared long before is recognised.
    """

    protocol = "postgresql"

    def __init__(self) -> None:
        super().__init__()
        self._logged_in = False
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, tuple[str, bytes]] = {}

    # --- client ----------------------------------------------------------------------------------

    def next_message(self) -> Message | None:
        buffer = self._from_client
        if not self._logged_in:
            return self._next_greeting()
        if len(buffer) < 1 + _LENGTH_BYTES:
            return None
        size = 1 + struct.unpack_from("!i", buffer, 1)[0]
        if len(buffer) < size:
            return None
        return self._message(self._take(buffer, size))

    def _next_greeting(self) -> Message | None:
        buffer = self._from_client
        while len(buffer) >= 2 * _LENGTH_BYTES:
            size, code = struct.unpack_from("!ii", buffer)
            if len(buffer) < size:
                return None
            raw = self._take(buffer, size)
            if code in _ENCRYPTION_REQUESTS:
                self.said_instead += b"N"
                continue
            self._logged_in = True
            is_login = code >> 16 == _PROTOCOL_MAJOR
            return Message("login" if is_login else "cancel", raw=raw, is_request=is_login)
        return None

    def _message(self, raw: bytes) -> Message:
        kind, body = raw[:1], raw[1 + _LENGTH_BYTES :]
        sql, parameters = "", b""
        if kind == b"Q":
            sql = _text(body.rstrip(b"\0"))
        elif kind == b"P":
            name, statement, _ = body.split(b"\0", 2)
            self._prepared[name] = _text(statement)
        elif kind == b"B":
            portal, name, values = body.split(b"\0", 2)
            self._portals[portal] = self._prepared.get(name, ""), values
        elif kind == b"E":
            sql, parameters = self._portals.get(body.split(b"\0", 1)[0], ("", b""))
        is_request = kind in (b"Q", b"E", b"F")
        command = _NAMES.get(kind, "?")
        return Message(command, sql, raw, is_request, self.protocol, parameters, self._in_transaction)

    def forwarded(self, message: Message) -> None:
        if message.is_request or message.command == "Sync":
            self._unanswered.append(message)

    def rest_of_flight(self) -> bytes:
        # After Execute, the server answers when it gets a Sync.
        waiting = self._unanswered[-1].command if self._unanswered else ""
        return b"S\0\0\0\x04" if waiting == "Execute" else b""

    # --- server ----------------------------------------------------------------------------------

    def next_reply(self) -> Reply | None:
        buffer = self._from_server
        if len(buffer) < 1 + _LENGTH_BYTES:
            return None
        size = 1 + struct.unpack_from("!i", buffer, 1)[0]
        if len(buffer) < size:
            return None
        raw = self._take(buffer, size)
        kind = raw[:1]
        if kind == b"Z":
            self._idle = raw[-1:] == b"I"
        if kind in _UNASKED or not self._unanswered:
            return Reply(raw)
        request = self._unanswered[0]
        if kind == b"Z":
            self._ready()
            return Reply(raw, request, is_last=True)
        if request.command == "login":
            # Only the client can continue a login, so nothing more comes from the server.
            return Reply(raw, request, is_last=True)
        if request.command == "Execute" and kind in _ENDS_AN_EXECUTE:
            # After an error the server skips to the next Sync: its reply answers all requests until then.
            if kind != b"E":
                self._unanswered.popleft()
            return Reply(raw, request, is_last=True)
        return Reply(raw, request)

    def _ready(self) -> None:
        """Drop the answered requests: everything to the Sync, the Query or the login that this ReadyForQuery is for."""
        while self._unanswered:
            if self._unanswered.popleft().command != "Execute":
                return


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
