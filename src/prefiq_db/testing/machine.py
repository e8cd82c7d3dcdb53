"""What private servers need from the machine: a free port, a folder, an environment."""

from __future__ import annotations

import os
import random
import socket
import stat
import tempfile
from pathlib import Path

from prefiq_db.testing.locate import ServerUnavailableError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is not in use now.

    Not one of those that the system assigns to clients (bind to port 0): while the server is down for a test, the
    reconnecting client itself could get its port, even connect to itself, and the server could not start again.
    """
    choice = random.SystemRandom()  # tests may seed the global generator
    for _ in range(200):
        port = choice.randrange(15000, 30000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise ServerUnavailableError("no free TCP port between 15000 and 30000")


def server_environment() -> dict[str, str]:
    """Return our environment without variables that would point a server's programs to another installation."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "MYSQL_", "MARIADB_")) and name not in {"LC_ALL", "LANGUAGE"}
    }


def make_folder(name: str) -> Path:
    """Create a folder that the server's account can reach: as root that rules out private parents."""
    base = Path(tempfile.gettempdir())
    if os.geteuid() == 0 and not all(folder.stat().st_mode & stat.S_IXOTH for folder in (base, *base.parents)):
        base = Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix=f"prefiq-{name}-", dir=base))
    folder.chmod(0o755)
    return folder
