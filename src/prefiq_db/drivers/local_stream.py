"""What LOAD DATA LOCAL may read: a stream of ours, under a name that only this call knows; never a file.

A server can answer any statement with a request for a file. Ours is answered only while a call streams its rows, and
only if it asks for that call's stream by name. Whatever else it asks for, it gets nothing, and the connection closes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final

#: CLIENT_LOCAL_FILES: said at login, because it can't be said later.
LOCAL_FILES: Final = 128
#: The client libraries' own code for a request that they refuse.
REFUSED: Final = 2068
#: The stream's name in texts that are shown and cached; the real one is put in its place when it is sent.
SHOWN_NAME: Final = "'prefiq_db'"

_BLOCK: Final = 256 * 1024


class LocalStream:
    """The bytes of one LOAD DATA LOCAL.

    Attributes:
        name: the name that the statement has, and that the server must ask for.
    """

    def __init__(self, content: bytes) -> None:
        self.name = f"prefiq_db-{secrets.token_hex(8)}"
        self._content = content

    def blocks(self) -> Iterator[bytes]:
        """Yield the content in packets of a moderate size."""
        for start in range(0, len(self._content), _BLOCK):
            yield self._content[start : start + _BLOCK]


def asked_for(stream: LocalStream | None, name: Any) -> bool:
    """Return whether a server that asks for *name* asks for *stream*."""
    asked = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else bytes(name)
    return stream is not None and secrets.compare_digest(asked, stream.name.encode())


def refusal(error_class: type[Exception]) -> Exception:
    """Return the driver's error for a request that is refused."""
    return error_class(REFUSED, "the server asked for a file, and gets none")
