"""Look up the addresses of a host, with a timeout."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import Any

from prefiq_db.deadline import Deadline


def is_name(host: str) -> bool:
    """Return whether *host* has to be looked up: it is neither an address nor the folder of a Unix socket."""
    if not host or host.startswith(("/", "@")):
        return False
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


def addresses_of(host: str, port: int, deadline: Deadline) -> list[tuple[Any, ...]]:
    """Return what ``socket.getaddrinfo`` returns for TCP, by *deadline*.

    The system's resolver can't be interrupted, so a thread looks the name up. If it is late, we leave it alone; it
    ends when the resolver gives up.

    Raises:
        OSError: the name is unknown.
        TimeoutError: the resolver didn't answer in time.
    """
    if not is_name(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found: list[list[tuple[Any, ...]] | OSError] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=look_up, name="prefiq_db resolver", daemon=True)
    thread.start()
    thread.join(deadline.left())
    if not found:
        raise TimeoutError("the host's name was not resolved in time")
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]
