"""MariaDB's and MySQL's packets: three bytes of length, one of sequence. Unencrypted, without compression."""

from __future__ import annotations

import struct
from collections.abc import Generator

from prefiq_db.testing.faults.framing import Framing, Message, Reply

_HEADER_BYTES = 4
_MAX_PAYLOAD = 0xFFFFFF

# Capabilities that would hide the content, or change its form; the proxy removes them from the server's greeting.
_COMPRESS, _SSL, _DEPRECATE_EOF, _ZSTD = 1 << 5, 1 << 11, 1 << 24, 1 << 26
_HIDING = _COMPRESS | _SSL | _DEPRECATE_EOF | _ZSTD
_LONG_PASSWORD = 1  # MariaDB doesn't set it, and has capabilities of its own where MySQL has zeros

_OK, _LOCAL_INFILE, _ERROR = 0x00, 0xFB, 0xFF
_MAX_EOF_PAYLOAD = 9
_IN_TRANSACTION = 0x01
_MORE_RESULTS = 0x08

_COM_QUERY, _COM_STMT_PREPARE, _COM_STMT_EXECUTE, _COM_STMT_BULK_EXECUTE = 0x03, 0x16, 0x17, 0xFA
_NAMES = {
    0x01: "COM_QUIT",
    0x02: "COM_INIT_DB",
    0x03: "COM_QUERY",
    0x09: "COM_STATISTICS",
    0x0E: "COM_PING",
    0x11: "COM_CHANGE_USER",
    0x16: "COM_STMT_PREPARE",
    0x17: "COM_STMT_EXECUTE",
    0x18: "COM_STMT_SEND_LONG_DATA",
    0x19: "COM_STMT_CLOSE",
    0x1A: "COM_STMT_RESET",
    0x1B: "COM_SET_OPTION",
    0x1F: "COM_RESET_CONNECTION",
    0xFA: "COM_STMT_BULK_EXECUTE",
}
_EXECUTES = {_COM_STMT_EXECUTE, _COM_STMT_BULK_EXECUTE}
_HAVE_RESULTS = {"COM_QUERY", "COM_STMT_EXECUTE", "COM_STMT_BULK_EXECUTE"}
_UNANSWERED = {"COM_QUIT", "COM_STMT_SEND_LONG_DATA", "COM_STMT_CLOSE"}


class MariaDbFraming(Framing):
    """A request is a command that the server answers, or the login.

    A ``COM_STMT_EXECUTE`` has the statement that was prepared.
    """

    protocol = "mariadb"

    def __init__(self) -> None:
        super().__init__()
        self._greeted = False
        self._login: Message | None = None
        self._logged_in = False
        self._sends_file = False
        self._prepared: dict[int, str] = {}
        self._last_prepared = 0
        self._answer: Generator[bool, bytes, None] | None = None

    # --- client ----------------------------------------------------------------------------------

    def next_message(self) -> Message | None:
        taken = self._next_packet(self._from_client)
        if taken is None:
            return None
        raw, payload = taken
        if self._login is None:
            self._login = Message("login", raw=raw, is_request=True, protocol=self.protocol)
            return self._login
        if not self._logged_in:
            return Message("password", raw=raw, protocol=self.protocol)
        if self._sends_file:
            self._sends_file = bool(payload)
            return Message("file", raw=raw, protocol=self.protocol)
        return self._command(raw, payload)

    def _command(self, raw: bytes, payload: bytes) -> Message:
        number = payload[0] if payload else -1
        name = _NAMES.get(number, "COM_?")
        sql = ""
        if number in (_COM_QUERY, _COM_STMT_PREPARE):
            sql = payload[1:].decode("utf-8", "replace")
        elif number in _EXECUTES:
            statement = struct.unpack_from("<I", payload, 1)[0]
            # MariaDB has a short form for "the statement that was prepared last".
            sql = self._prepared.get(self._last_prepared if statement == 0xFFFFFFFF else statement, "")
        return Message(
            name,
            sql,
            raw,
            is_request=name not in _UNANSWERED,
            protocol=self.protocol,
            parameters=payload if number in _EXECUTES else b"",
            in_transaction=self._in_transaction,
        )

    def forwarded(self, message: Message) -> None:
        if message.is_request:
            self._unanswered.append(message)
            if message.command == "COM_CHANGE_USER":
                self._logged_in = False

    # --- server ----------------------------------------------------------------------------------

    def next_reply(self) -> Reply | None:
        taken = self._next_packet(self._from_server)
        if taken is None:
            return None
        raw, payload = taken
        if not self._greeted:
            self._greeted = True
            return Reply(_without_hiding(raw))
        if not self._unanswered:
            return Reply(raw)
        request = self._unanswered[0]
        if self._answer is None:
            self._answer = self._listen(request)
            next(self._answer)
        is_last = self._answer.send(payload)
        if is_last:
            self._answer = None
            self._unanswered.popleft()
        # Only the client can continue a login, so nothing more comes from the server.
        return Reply(raw, request, is_last or not self._logged_in)

    def _listen(self, request: Message) -> Generator[bool, bytes, None]:
        """Receive an answer packet by packet; yield for each whether it was the last."""
        payload = yield False
        if not self._logged_in:
            while payload[:1] not in (b"\x00", b"\xff"):  # further steps of the authentication
                payload = yield False
            self._logged_in = True
            self._note_status_of_ok(payload)
            yield True
        elif request.command == "COM_STMT_PREPARE":
            yield from self._listen_to_prepare(request, payload)
        elif request.command in _HAVE_RESULTS:
            yield from self._listen_to_results(payload)
        else:
            self._note_status_of_ok(payload)
            yield True

    def _note_status_of_ok(self, payload: bytes) -> None:
        if payload[:1] == b"\x00":
            self._note_status(_status_of_ok(payload))

    def _note_status(self, status: int) -> None:
        self._idle = not status & _IN_TRANSACTION

    def _listen_to_results(self, payload: bytes) -> Generator[bool, bytes, None]:
        while True:
            kind = payload[0]
            if kind == _ERROR:
                yield True
            elif kind == _LOCAL_INFILE:
                self._sends_file = True
                payload = yield False
                continue
            elif kind == _OK:
                status = _status_of_ok(payload)
            else:
                while not _is_eof(payload := (yield False)):  # the columns
                    pass
                while not _is_eof(payload := (yield False)):  # the rows
                    if payload[0] == _ERROR:
                        yield True
                status = struct.unpack_from("<H", payload, 3)[0]
            self._note_status(status)
            payload = yield not status & _MORE_RESULTS

    def _listen_to_prepare(self, request: Message, payload: bytes) -> Generator[bool, bytes, None]:
        if payload[0] == _ERROR:
            yield True
        statement, columns, parameters = struct.unpack_from("<IHH", payload, 1)
        self._prepared[statement] = request.sql
        self._last_prepared = statement
        for _ in range(sum(count + 1 for count in (parameters, columns) if count)):  # definitions, then an EOF
            yield False
        yield True

    # --- both ------------------------------------------------------------------------------------

    def _next_packet(self, buffer: bytearray) -> tuple[bytes, bytes] | None:
        """Take a packet with its continuations; return its bytes and its payload."""
        parts, end = [], 0
        while len(buffer) >= end + _HEADER_BYTES:
            size = int.from_bytes(buffer[end : end + 3], "little")
            parts.append(slice(end + _HEADER_BYTES, end := end + _HEADER_BYTES + size))
            if size < _MAX_PAYLOAD:
                if len(buffer) < end:
                    return None
                raw = self._take(buffer, end)
                return raw, b"".join(raw[part] for part in parts)
        return None


def _is_eof(payload: bytes) -> bool:
    return payload[:1] == b"\xfe" and len(payload) < _MAX_EOF_PAYLOAD


def _status_of_ok(payload: bytes) -> int:
    position = _after_number(payload, _after_number(payload, 1))  # affected rows, last id
    return int(struct.unpack_from("<H", payload, position)[0])


def _after_number(payload: bytes, position: int) -> int:
    """Return the position after a length-encoded number."""
    return position + {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(payload[position], 1)


def _without_hiding(raw: bytes) -> bytes:
    """Return the server's greeting without the capabilities that would hide the content."""
    greeting = bytearray(raw)
    if greeting[_HEADER_BYTES] == _ERROR:  # too many connections
        return raw
    # Protocol, version with its zero, thread, eight bytes to hash the password with, a zero.
    low = greeting.index(0, _HEADER_BYTES + 1) + 1 + 4 + 8 + 1
    high = low + 5
    capabilities = int.from_bytes(greeting[low : low + 2] + greeting[high : high + 2], "little") & ~_HIDING
    greeting[low : low + 2] = capabilities.to_bytes(4, "little")[:2]
    greeting[high : high + 2] = capabilities.to_bytes(4, "little")[2:]
    if not capabilities & _LONG_PASSWORD:
        extended = high + 2 + 1 + 6
        greeting[extended : extended + 4] = b"\0\0\0\0"
    return bytes(greeting)
