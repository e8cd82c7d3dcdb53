"""A network of their own for the nodes of a cluster, with cables that can be pulled.

Each node has a network namespace, and in it two lines: one to a switch, where it meets the other nodes, and one to us,
where its clients are. Nothing else of this machine sees them, and they end with the process that holds them.
"""

from __future__ import annotations

import ipaddress
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from prefiq_db.errors import UsageError
from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.machine import make_folder, server_environment
from prefiq_db.testing.processes import Account, ChildProcess, wait_until

_PROGRAMS: Final = ("ip", "nsenter", "unshare")
_FOLDERS: Final = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_START_SECONDS: Final = 30.0
# Seen by nobody but the nodes.
_PEERS: Final = ipaddress.IPv4Network("10.0.0.0/24")
# For the tests of devices (RFC 2544): no machine that we want to reach has such an address.
_CLIENTS: Final = ipaddress.IPv4Network("198.18.0.0/15")
_LINE: Final = 30  # bits of the network: two addresses of four are usable, ours and the node's
_LINE_SIZE: Final = 4
_FIRST_HANDLE: Final = 20

_PROBE: Final = ("link add switch type bridge", "link add port type veth peer name peers")

# Holds the namespaces: they live as long as it does, or a process in them.
_HOLDER: Final = """
import ctypes, os, signal, sys

CLONE_NEWNET = 0x40000000

for handle in map(int, sys.argv[1:]):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
    opened = os.open("/proc/self/ns/net", os.O_RDONLY)
    os.dup2(opened, handle)
    os.close(opened)
print("ready", flush=True)
while True:
    signal.pause()
"""


class Cables:
    """The network of *count* nodes. Needs Linux, root, and the programs of iproute2 and util-linux.

    Raises:
        ServerUnavailableError: if one of these isn't there, or the machine doesn't let us make a network.
    """

    def __init__(self, count: int) -> None:
        self._programs = _find_programs()
        _run([self._programs["unshare"], "--net", *self._ip()], _PROBE)
        self._handles = [_FIRST_HANDLE + number for number in range(count + 1)]  # the last one is the switch's
        first = _LINE_SIZE * random.SystemRandom().randrange(_CLIENTS.num_addresses // _LINE_SIZE - count)
        starts = range(first, first + count * _LINE_SIZE, _LINE_SIZE)
        self._lines = [(_CLIENTS[start + 1], _CLIENTS[start + 2]) for start in starts]
        self._name = f"pq{secrets.token_hex(4)}n"
        self._folder = Path()
        self._child: ChildProcess | None = None

    # --- life cycle ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Make the network, with all cables plugged in."""
        self._folder = make_folder("cables")
        self._child = ChildProcess(self._folder, abort_signal=signal.SIGTERM)
        try:
            self._hold(self._child)
            self._lay()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the network; the nodes in it have to end before."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _hold(self, child: ChildProcess) -> None:
        log = self._folder / "log"
        command = [sys.executable, "-I", "-S", "-c", _HOLDER, *map(str, self._handles)]
        child.spawn(command, log=log, environment=server_environment())
        wait_until(lambda: not child.running or log.read_text() != "", timeout_seconds=_START_SECONDS)
        if not child.running or not log.read_text().startswith("ready"):
            raise ServerUnavailableError(f"no network namespaces on this machine: {log.read_text().strip()}")

    def _lay(self) -> None:
        nodes = range(len(self._lines))
        switch = ["link add switch type bridge forward_delay 0", "link set switch up"]
        ours = []
        for number in nodes:
            within = f"netns {self._place(number)}"
            switch += [f"link add port{number} type veth peer name peers {within}", f"link set port{number} up"]
            ours += [f"link add {self._name}{number} type veth peer name clients {within}"]
            ours += [f"address add {self._lines[number][0]}/{_LINE} dev {self._name}{number}"]
            ours += [f"link set {self._name}{number} up"]
        self._configure(switch, len(self._lines))
        self._configure(ours)
        for number in nodes:
            self.plug(number)
            addresses = [f"address add {self.peer_host(number)}/{_PEERS.prefixlen} dev peers"]
            addresses += [f"address add {self.host(number)}/{_LINE} dev clients"]
            self._configure([*addresses, *(f"link set {name} up" for name in ("lo", "peers", "clients"))], number)

    # --- nodes -----------------------------------------------------------------------------------

    def host(self, number: int) -> str:
        """Return the address by which clients reach a node, and only they."""
        return str(self._lines[number][1])

    def peer_host(self, number: int) -> str:
        """Return the address by which the other nodes reach a node, and only they."""
        return str(_PEERS[number + 1])

    def command_of(self, number: int, command: Sequence[str], account: Account | None) -> list[str]:
        """Return *command* in the network of a node, and as *account*."""
        user = [] if account is None else [f"--setuid={account.uid}", f"--setgid={account.gid}"]
        return [self._programs["nsenter"], f"--net={self._place(number)}", *user, *command]

    def pull(self, number: int) -> None:
        """Pull a node's cable to the others: what they send each other from now on is lost, and nobody is told."""
        self._configure([f"link set port{number} nomaster"], len(self._lines))

    def plug(self, number: int) -> None:
        """Plug a node's cable in again."""
        self._configure([f"link set port{number} master switch"], len(self._lines))

    # --- inside ----------------------------------------------------------------------------------

    def _place(self, number: int) -> str:
        if self._child is None or not self._child.running:
            raise UsageError("the network of the nodes was never started, or was closed")
        return f"/proc/{self._child.pid}/fd/{self._handles[number]}"

    def _configure(self, lines: Sequence[str], number: int | None = None) -> None:
        _run(self._ip() if number is None else self.command_of(number, self._ip(), None), lines)

    def _ip(self) -> list[str]:
        return [self._programs["ip"], "-batch", "-"]


def _run(command: Sequence[str], lines: Sequence[str]) -> None:
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerUnavailableError(f"no network namespaces on this machine: {(done.stderr or done.stdout).strip()}")


def _find_programs() -> dict[str, str]:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ServerUnavailableError("nodes get a network of their own only on Linux, and from root")
    path = os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS])
    found = {name: shutil.which(name, path=path) for name in _PROGRAMS}
    programs = {name: program for name, program in found.items() if program is not None}
    if missing := [name for name in _PROGRAMS if name not in programs]:
        raise ServerUnavailableError(
            f"no {' and no '.join(missing)} on PATH or in {', '.join(_FOLDERS)}. "
            "Debian: apt-get install -y --no-install-recommends iproute2 util-linux"
        )
    return programs
