"""MongoDB's messages: a header of four numbers, then a command. Unencrypted, without compression."""

from __future__ import annotations

import re
import struct
from typing import Final

from prefiq_db.testing.faults.framing import Framing, Message, Reply

_HEADER: Final = struct.Struct("<iiii")  # length, number, the number that it answers, kind
_OP_REPLY, _OP_QUERY, _OP_COMPRESSED, _OP_MSG = 1, 2004, 2012, 2013
_KINDS: Final = frozenset({_OP_REPLY, _OP_QUERY, _OP_COMPRESSED, _OP_MSG})
_MORE_TO_COME: Final = 2
_BODY, _STRING = 0, 2
# What a server takes at most; a longer one is no message: TLS, say.
_MOST_BYTES: Final = 48_000_000 + 16 * 1024
# Only these are shown, because other text could be a value.
_COMMAND: Final = re.compile(rb"[A-Za-z]{1,40}")


class MongoFraming(Framing):
    """A request is a command that the server answers; those of the handshake and of PyMongo's monitoring, too."""

    protocol = "mongodb"

    def __init__(self) -> None:
        super().__init__()
        self._asked: dict[int, Message] = {}
        self._is_opaque = False

    # --- client ----------------------------------------------------------------------------------

    def next_message(self) -> Message | None:
        raw = self._next(self._from_client)
        if raw is None:
            return None
        if self._is_opaque:
            return Message("?", raw=raw, protocol=self.protocol)
        _, _, _, kind = _HEADER.unpack_from(raw)
        name, collection, is_answered = _read_command(raw, kind)
        return Message(name, raw=raw, is_request=is_answered, protocol=self.protocol, collection=collection)

    def forwarded(self, message: Message) -> None:
        if message.is_request:
            self._asked[_HEADER.unpack_from(message.raw)[1]] = message

    # --- server ----------------------------------------------------------------------------------

    def next_reply(self) -> Reply | None:
        raw = self._next(self._from_server)
        if raw is None:
            return None
        if self._is_opaque:
            return Reply(raw)
        _, number, answered, kind = _HEADER.unpack_from(raw)
        request = self._asked.pop(answered, None)
        flags = struct.unpack_from("<I", raw, _HEADER.size)[0] if kind == _OP_MSG else 0
        goes_on = bool(flags & _MORE_TO_COME)
        if request is not None and goes_on:
            self._asked[number] = request  # the next one answers this one
        return Reply(raw, request, request is not None and not goes_on)

    # --- both ------------------------------------------------------------------------------------

    def _next(self, buffer: bytearray) -> bytes | None:
        if self._is_opaque:
            return self._take(buffer, len(buffer)) or None
        if len(buffer) < _HEADER.size:
            return None
        size, _, _, kind = _HEADER.unpack_from(buffer)
        if not _HEADER.size <= size <= _MOST_BYTES or kind not in _KINDS:
            self._is_opaque = True  # nothing that we know: let it pass
            return self._take(buffer, len(buffer))
        return self._take(buffer, size) if len(buffer) >= size else None


def _read_command(raw: bytes, kind: int) -> tuple[str, str, bool]:
    """Return the command's name, its collection, and whether the server answers it."""
    if kind == _OP_QUERY:
        document = raw.find(b"\x00", _HEADER.size + 4) + 1 + 8
        return *_first_field(raw, document), True
    if kind != _OP_MSG:
        return "?", "", True
    (flags,) = struct.unpack_from("<I", raw, _HEADER.size)
    place = _HEADER.size + 4
    while place < len(raw) and raw[place] != _BODY:  # the documents of an insert may stand before
        place += 1 + struct.unpack_from("<i", raw, place + 1)[0]
    return *_first_field(raw, place + 1), not flags & _MORE_TO_COME


def _first_field(raw: bytes, document: int) -> tuple[str, str]:
    """Return name and text of the first field of the BSON document at *document*: ``insert``, ``item``."""
    kind, start = raw[document + 4 : document + 5], document + 5
    end = raw.find(b"\x00", start)
    name = raw[start:end]
    if not _COMMAND.fullmatch(name):
        return "?", ""
    if kind != bytes([_STRING]):
        return name.decode(), ""
    size = struct.unpack_from("<i", raw, end + 1)[0]
    return name.decode(), raw[end + 5 : end + 4 + size].decode("utf-8", "replace")
