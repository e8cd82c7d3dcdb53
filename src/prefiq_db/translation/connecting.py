"""Why a connection attempt failed, and where it went: host, port and path, never user or password."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import Final

from prefiq_db.deadline import Deadline
from prefiq_db.drivers.deadlines import DeadlinePassed

Words = tuple[str, str]

_NOTED: Final = "_prefiq_connecting"


@dataclass(frozen=True, slots=True)
class Connecting:
    """One attempt to connect.

    Attributes:
        place: hosts with their ports, or a socket's or file's path, for the message.
        file: the path of SQLite's file, or ``None``.
        deadline: when the attempt times out; ``None`` where nothing waits.
        read_only: whether the connection is only for reading.
    """

    place: str
    file: str | None = None
    deadline: Deadline | None = None
    read_only: bool = False


def note(error: BaseException, connecting: Connecting) -> None:
    """Attach *connecting* to *error*, which passes through SQLAlchemy before the message is written."""
    setattr(error, _NOTED, connecting)


def find_noted(*errors: BaseException | None) -> Connecting | None:
    """Return the attempt that was attached to one of *errors*."""
    return next((found for error in errors if (found := getattr(error, _NOTED, None)) is not None), None)


# Messages of libpq, resolvers, operating systems and Python's drivers. The first match counts.
_REASONS: Final[tuple[tuple[re.Pattern[str], Words], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (
            r"unsupported startup parameter",
            (
                "a pooler such as pgbouncer is in front of the server, and takes no session settings",
                "set pgbouncer: true",
            ),
        ),
        (
            r"failed to resolve host|could not translate host name|name or service not known|nodename nor servname"
            r"|name resolution|no address associated|getaddrinfo failed|\[Errno -\d+\]|invalid hostname",
            ("the host's name was not found", "check the name, and the name service (DNS) of this machine"),
        ),
        (
            r"certificate.verify|server certificate for|root certificate|certificate has expired|hostname mismatch",
            ("TLS failed, for the server's certificate is not trusted or another host's", "check ssl_ca and the host"),
        ),
        (
            r"does(?:n't| not) support (?:it|SSL)|WRONG_VERSION_NUMBER",
            ("TLS failed, for the server does not offer it", "set it up there, or see ssl_mode"),
        ),
        (
            r"connection refused|actively refused|\[(?:Errno|WinError) (?:111|61|10061)\]",
            ("the connection was refused, for nobody listens there", "is the server running, and is the port right?"),
        ),
        (
            r"no route to host|(?:network|host) is (?:unreachable|down)|\[Errno (?:101|113|51|65)\]",
            ("the host can't be reached from here", "check network, routes and firewalls"),
        ),
        (
            r"connection timed out|timeout expired|\[Errno (?:110|60)\]",
            ("the host did not answer", "is it there, and does a firewall let this machine in?"),
        ),
        (
            r"server closed the connection|lost connection|connection reset|broken pipe|bad file descriptor"
            r"|\[Errno (?:9|32|54|104)\]|0 bytes read|unexpected eof",
            (
                "the connection was taken and closed at once",
                "is it a server of this kind, or a proxy without one behind it?",
            ),
        ),
        (r"\bSSL\b|\bTLS\b|private key", ("TLS failed", "check ssl_mode and the certificates of both sides")),
        (
            r"no such file or directory|\[Errno 2\]",
            ("there is no socket at that path", "is the server running here, and is the path right?"),
        ),
        (r"permission denied|\[Errno 13\]", ("the socket does not let this process in", "check its permissions")),
    )
)


def find_reason(error: BaseException, text: str, connecting: Connecting | None) -> Words | None:
    """Return what happened, and what to try; ``None`` if there is no specific text for it."""
    if isinstance(error, DeadlinePassed) or (isinstance(error, TimeoutError) and error.errno is None):
        return _explain_lateness(connecting)
    if connecting is not None and connecting.file is not None:
        return _explain_file(connecting.file, read_only=connecting.read_only)
    if isinstance(error, socket.gaierror):
        text = f"getaddrinfo failed {text}"
    return next((words for pattern, words in _REASONS if pattern.search(text)), None)


def _explain_lateness(connecting: Connecting | None) -> Words:
    deadline = None if connecting is None else connecting.deadline
    limit = "" if deadline is None else f" within the {deadline.seconds:.3g} s of {deadline.limit_name}"
    return (
        f"no connection came about{limit}",
        "is the server there, and does a firewall let this machine in? Else allow it more time",
    )


def _explain_file(path: str, *, read_only: bool) -> Words:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        return "the folder of the file is missing", "create the folder, or check the path"
    if os.path.isdir(path):
        return "the path is a folder, not a file", "name a file in it"
    if read_only and not os.path.exists(path):
        return "the file is missing, and who may only read creates none", "check the path, or the setting read_only"
    return "the file can't be opened", "may this process read and write it, and its folder?"
