"""What a node of Patroni is told: its settings, and the program that starts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prefiq_db.testing.machine import LOOPBACK

# Patroni's server detaches itself, so that nothing would end it with us: whoever has lost its parent comes to this
# process. And Patroni takes no ttl below 20 s, which is right between machines and too long for a test.
LAUNCHER: Final = """
import ctypes, os, signal, sys

PR_SET_CHILD_SUBREAPER = 36


def run_patroni():
    from patroni.config import Config
    from patroni.__main__ import main

    Config._validate_and_adjust_timeouts = lambda self, config: None
    sys.argv = ["patroni", sys.argv[1]]
    sys.exit(main())


if __name__ == "__main__":  # Patroni's helpers import this file once more
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    pid = os.fork()
    if pid == 0:
        run_patroni()

    def abort(number, frame):
        os.kill(pid, signal.SIGKILL)
        with open(sys.argv[2]) as file:
            os.kill(int(file.readline()), number)

    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(pid, number))
    signal.signal(signal.SIGQUIT, abort)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
"""

#: of PostgreSQL, for all nodes.
PARAMETERS: Final[Mapping[str, str]] = {
    "fsync": "off",
    "max_connections": "200",
    "wal_retrieve_retry_interval": "100ms",
}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a node is.

    Attributes:
        peers: for the other nodes.
        clients: for everybody else.
    """

    peers: str = LOOPBACK
    clients: str = LOOPBACK

    def listening(self, port: int) -> dict[str, str]:
        """Return where something of the node listens, and is reached by the other nodes."""
        own = ",".join(dict.fromkeys((LOOPBACK, self.peers, self.clients)))
        return {"listen": f"{own}:{port}", "connect_address": f"{self.peers}:{port}"}


def api_settings(addresses: Addresses, port: int) -> dict[str, str]:
    """Return where Patroni's REST API listens: at one address, or at all."""
    found = addresses.listening(port)
    return found if found["listen"].count(",") == 0 else {**found, "listen": f"0.0.0.0:{port}"}


def raft_settings(folder: Path, place: str, partners: Sequence[str]) -> dict[str, Any]:
    """Return how a node votes with its partners, each as ``address:port``."""
    return {"data_dir": str(folder / "raft"), "self_addr": place, "partner_addrs": list(partners)}


def server_settings(
    folder: Path, programs: Path, addresses: Addresses, port: int, account: Mapping[str, str]
) -> dict[str, Any]:
    """Return how a node runs its server; *account* is the only one, for all that Patroni does there."""
    from_where = ["127.0.0.1/32"] if addresses == Addresses() else ["127.0.0.1/32", "samenet"]
    return {
        **addresses.listening(port),
        "data_dir": str(folder / "data"),
        "bin_dir": str(programs),
        "pgpass": str(folder / "pgpass"),
        "authentication": {name: dict(account) for name in ("superuser", "replication", "rewind")},
        "parameters": {"unix_socket_directories": str(folder), "dynamic_shared_memory_type": "mmap"},
        "pg_hba": [
            "local all all scram-sha-256",
            *(f"host {what} all {where} scram-sha-256" for what in ("all", "replication") for where in from_where),
        ],
        "basebackup": [{"checkpoint": "fast"}, "no-sync"],
        "remove_data_directory_on_rewind_failure": True,
        "remove_data_directory_on_diverged_timelines": True,
    }
