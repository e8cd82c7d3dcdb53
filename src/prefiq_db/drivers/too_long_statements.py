"""What MariaDB and MySQL say to a statement that is too long for them: in its middle, and then they hang up.

A statement of more than 16 MB goes in several packets. The server reads them up to ``max_allowed_packet``, answers with
the next number of those that it read, and reads no further; what was not read to its end is not carried out.
Source: https://mariadb.com/docs/server/reference/clientserver-protocol/0-packet
"""

from __future__ import annotations

import socket
from typing import Any, Final

_TOO_LONG: Final = 1153  # ER_NET_PACKET_TOO_LARGE

#: What an error begins with, behind the header.
ERROR: Final = b"\xff"

_LONGEST: Final = 4096


def ends_conversation(error: Exception) -> bool:
    """Return whether nothing more can be said on a connection on which *error* was raised instead of a reply.

    The server has hung up; or the error is not its own but about its reply, and nobody knows how much of that is left.
    """
    code = error.args[0] if error.args else None
    return code == _TOO_LONG or not isinstance(code, int)


def sequence_of_refusal(head: bytes | bytearray) -> int | None:
    """Return the number of the packet that begins with *head*, if it is an error in answer to a statement.

    0 is the number of what a server says unasked, when it shuts down.
    """
    return head[3] or None if head[4:5] == ERROR else None


class LastWords:
    """A second handle of an asyncio transport's socket, for what arrived before the transport gave it up."""

    def __init__(self, transport: Any) -> None:
        self._socket = socket.fromfd(transport.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)  # whatever the process's default says: what is not there yet is not waited for
        self._tls: Any = transport.get_extra_info("ssl_object")
        # asyncio's own; another event loop's TLS keeps it to itself, and then nothing is heard.
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
