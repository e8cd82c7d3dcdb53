"""What private servers need from the machine: a free port, a folder, an environment."""

from __future__ import annotations

import os
import random
import socket
import stat
import tempfile
from pathlib import Path
from typing import Final

from prefiq_db.testing.locate import ServerUnavailableError

LOOPBACK = "127.0.0.1"


#: For servers and proxies.
PORTS: Final = range(15000, 30000)
#: For what listens only now and then: in between, a server of somebody else's would get its port.
QUIET_PORTS: Final = range(12000, 15000)


def free_port(ports: range = PORTS) -> int:
    """Return a TCP port of 127.0.0.1 that is not in use now.

    Not one of those that the system assigns to clients (bind to port 0): while the server is down for a test, the
    reconnecting client itself could get its port, even connect to itself, and the server could not start again.
    """
    choice = random.SystemRandom()  # tests may seed the global generator
    for _ in range(200):
        port = choice.choice(ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise ServerUnavailableError(f"no free TCP port between {ports.start} and {ports.stop}")


def free_ports(count: int, ports: range = PORTS) -> list[int]:
    """Return so many different ports; one by one, a port where nothing listens yet could be given twice."""
    found: dict[int, None] = {}
    while len(found) < count:
        found[free_port(ports)] = None
    return list(found)


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
