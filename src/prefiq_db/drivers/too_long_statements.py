"""MariaDB's and MySQL's reply to a statement that is too long: it comes while we send, and then they disconnect.

A statement of more than 16 MB goes in several packets. The server reads them up to ``max_allowed_packet``, replies with
the sequence number that follows those it read, and reads no further. It doesn't run a statement that it didn't read to
the end.
Source: https://mariadb.com/docs/server/reference/clientserver-protocol/0-packet
"""

from __future__ import annotations

import socket
from typing import Any, Final

_TOO_LONG: Final = 1153  # ER_NET_PACKET_TOO_LARGE

#: The first byte of an error, after the header.
ERROR: Final = b"\xff"

_LONGEST: Final = 4096


def ends_conversation(error: Exception) -> bool:
    """Return whether *error*, raised instead of a reply, makes the connection unusable.

    Either the server has disconnected; or the driver failed on a reply, and an unknown part of that is unread.
    """
    code = error.args[0] if error.args else None
    return code == _TOO_LONG or not isinstance(code, int)


def sequence_of_refusal(head: bytes | bytearray) -> int | None:
    """Return the sequence number of the packet that begins with *head*, if it is an error in reply to a statement.

    Number 0 means that the server sent it unasked, as it does when it shuts down.
    """
    return head[3] or None if head[4:5] == ERROR else None


class LastWords:
    """A second handle of an asyncio transport's socket, for data that arrived before the transport stopped reading."""

    def __init__(self, transport: Any) -> None:
        self._socket = socket.fromfd(transport.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)  # whatever the process's default: never wait for data
        self._tls: Any = transport.get_extra_info("ssl_object")
        # asyncio's own; TLS of another event loop doesn't give access to it, and then we read nothing.
        self._encrypted: Any = getattr(getattr(transport, "_ssl_protocol", None), "_incoming", None)

    def __enter__(self) -> LastWords:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def refusal(self) -> bytes | None:
        """Return the error that the server sent, without its header; ``None`` when it sent none."""
        try:
            said = self._read()
        except OSError:  # nothing is there, or it can't be read any more
            return None
        length = int.from_bytes(said[:3], "little")
        complete = len(said) >= 4 + length
        return said[4 : 4 + length] if complete and sequence_of_refusal(said) is not None else None

    def _read(self) -> bytes:
        said = self._socket.recv(_LONGEST)
        if self._tls is None:
            return said
        if self._encrypted is None:
            return b""
        self._encrypted.write(said)
        decrypted: bytes = self._tls.read(_LONGEST)
        return decrypted
