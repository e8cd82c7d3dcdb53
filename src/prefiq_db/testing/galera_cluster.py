"""A Galera cluster for tests: MariaDB servers that all take writes."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from prefiq_db.errors import UsageError
from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.machine import LOOPBACK, QUIET_PORTS, free_ports
from prefiq_db.testing.mariadb_server import PLAIN_USER, MariaDbServer
from prefiq_db.testing.processes import wait_until
from prefiq_db.testing.server_cluster import ServerCluster

_PROVIDERS: Final = (
    "/usr/lib/galera/libgalera_smm.so",
    "/usr/lib64/galera-4/libgalera_smm.so",
    "/usr/lib64/galera/libgalera_smm.so",
)
_SYNC_SECONDS = 180.0
_SYNCED: Final = {"wsrep_ready": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state_comment": "Synced"}

# A dead node is left after 5-10 s. If that were shorter, nodes that only wait for a processor would leave each other,
# and pieces none of which is a majority refuse all work. They go on by themselves as soon as all of them meet again.
_TIMEOUTS: Final = {
    "evs.keepalive_period": "PT1S",
    "evs.inactive_check_period": "PT0.5S",
    "evs.suspect_timeout": "PT5S",
    "evs.inactive_timeout": "PT10S",
    "evs.install_timeout": "PT10S",
    "gmcast.peer_timeout": "PT10S",
    "pc.announce_timeout": "PT10S",
    "pc.recovery": "true",
    "gcache.size": "16M",
}


class GaleraCluster(ServerCluster[MariaDbServer]):
    """Private MariaDB nodes that all take writes: ``with GaleraCluster(nodes=3) as cluster: cluster.nodes[0].kill()``.

    A node that was killed, or left, joins again when it is started. Wait for it with :meth:`wait_until_synced`.

    Args:
        nodes: how many.
        settings: further server settings, for all.
        provider_options: further options of Galera, for all, as ``{"evs.suspect_timeout": "PT1S"}``; by default
            a dead node is left after 5-10 s.

    Raises:
        ServerUnavailableError: if there is no MariaDB or no Galera; the message says what to install.
    """

    def __init__(
        self,
        *,
        nodes: int = 3,
        settings: Mapping[str, str] | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        provider = find_provider()
        quiet = free_ports(3 * nodes, QUIET_PORTS)
        self._ports = dict(enumerate(quiet[:nodes]))
        self._transfer_ports = iter(quiet[nodes:])
        address = "gcomm://" + ",".join(f"{LOOPBACK}:{port}" for port in self._ports.values())
        given = {
            "wsrep_on": "ON",
            "wsrep_provider": str(provider),
            "wsrep_cluster_name": f"prefiq_{secrets.token_hex(6)}",
            "wsrep_cluster_address": address,
            "wsrep_node_address": LOOPBACK,
            "wsrep_sst_method": "rsync",
            "binlog_format": "ROW",
            "innodb_autoinc_lock_mode": "2",
            **(settings or {}),
        }
        options = {**_TIMEOUTS, **(provider_options or {})}
        super().__init__(tuple(self._make_node(number, given, options) for number in range(nodes)))

    def _make_node(self, number: int, settings: Mapping[str, str], options: Mapping[str, str]) -> MariaDbServer:
        own = {
            **options,
            "gmcast.listen_addr": f"tcp://{LOOPBACK}:{self._ports[number]}",
            "ist.recv_addr": f"{LOOPBACK}:{next(self._transfer_ports)}",
        }
        return _Node(
            settings={
                **settings,
                "wsrep_node_name": f"node{number}",
                "wsrep_sst_receive_address": f"{LOOPBACK}:{next(self._transfer_ports)}",
                "wsrep_provider_options": ";".join(f"{name}={value}" for name, value in own.items()),
            },
        )

    def _start(self, stack: ExitStack) -> None:
        for number, node in enumerate(self.nodes):
            stack.callback(node.close)
            if number == 0:
                self._start_as_first(node)
            else:
                node.start()
            self.wait_until_synced(node)
        self.wait_until_size(len(self.nodes))

    def _login(self) -> str:
        return f"{PLAIN_USER}:{self.nodes[0]._password}"

    # --- what a node says ------------------------------------------------------------------------

    def status(self, node: MariaDbServer, name: str) -> str:
        """Return one of a node's ``wsrep_…`` status values: ``status(node, "wsrep_cluster_status")``."""
        return str(node.execute(f"show status like '{name}'")[0][1])

    def is_synced(self, node: MariaDbServer) -> bool:
        """Whether a node belongs to a cluster that works, and is up to date."""
        import pymysql

        if not node.running:
            return False
        try:
            said = dict(node.execute("show status like 'wsrep%'"))
        except pymysql.OperationalError:  # also in the middle of a change: then it ends sessions
            return False
        return all(said.get(name) == value for name, value in _SYNCED.items())

    def wait_until_synced(self, *nodes: MariaDbServer, timeout_seconds: float = _SYNC_SECONDS) -> None:
        """Wait until each of *nodes*, without any each running node, is up to date.

        Raises:
            ServerUnavailableError: if one isn't in that time; the message has the end of its log.
        """
        for node in nodes or tuple(each for each in self.nodes if each.running):
            wait_until(lambda node=node: self.is_synced(node) or not node.running, timeout_seconds=timeout_seconds)  # type: ignore[misc]  # a lambda with a default
            if not self.is_synced(node):
                raise ServerUnavailableError(f"a node of Galera did not join; the end of its log:\n{node.log}")

    def wait_until_size(self, size: int, *, timeout_seconds: float = _SYNC_SECONDS) -> None:
        """Wait until the cluster says that it has *size* nodes: the others were left, or have joined.

        Raises:
            ServerUnavailableError: if none says so in that time.
        """

        def has_size() -> bool:
            synced = (node for node in self.nodes if self.is_synced(node))
            return any(self.status(node, "wsrep_cluster_size") == str(size) for node in synced)

        if not wait_until(has_size, timeout_seconds=timeout_seconds):
            raise ServerUnavailableError(f"the cluster did not get to {size} nodes within {timeout_seconds:g} s")

    # --- what happens to a node ------------------------------------------------------------------

    @contextmanager
    def drained(self, node: MariaDbServer) -> Iterator[None]:
        """Let a node refuse all that touches a table (1047), as an administrator does before work on it."""
        node.execute("set global wsrep_reject_queries = 'ALL'")
        try:
            yield
        finally:
            node.execute("set global wsrep_reject_queries = 'NONE'")

    @contextmanager
    def desynced(self, node: MariaDbServer) -> Iterator[None]:
        """Let a node fall behind, as during a backup (``wsrep_desync``): it answers, and nobody waits for it."""
        node.execute("set global wsrep_desync = ON")
        try:
            yield
        finally:
            node.execute("set global wsrep_desync = OFF")
            self.wait_until_synced(node)

    @contextmanager
    def partitioned(self, *nodes: MariaDbServer) -> Iterator[None]:
        """Cut each of *nodes* off from all others (``gmcast.isolate``); clients still reach it, and it refuses work.

        The rest keeps working if it is more than half of the cluster.
        """
        for node in nodes:
            node.execute("set global wsrep_provider_options = 'gmcast.isolate=1'")
        for node in nodes:
            if not wait_until(lambda node=node: not self.is_synced(node), timeout_seconds=_SYNC_SECONDS):  # type: ignore[misc]  # a lambda with a default
                raise ServerUnavailableError(f"the node was not cut off; the end of its log:\n{node.log}")
        try:
            yield
        finally:
            for node in nodes:
                node.execute("set global wsrep_provider_options = 'gmcast.isolate=0'")
            self.wait_until_synced(*nodes)

    def bootstrap(self, node: MariaDbServer) -> None:
        """Make *node* the first of the cluster anew, when no majority is left: the others join it.

        A running node goes on with what it has; one that isn't running starts with it.

        Raises:
            UsageError: if another node belongs to a working cluster: there would be two.
        """
        if any(self.is_synced(other) for other in self.nodes if other is not node):
            raise UsageError("can't bootstrap: another node belongs to a working cluster")
        if node.running:
            node.execute("set global wsrep_provider_options = 'pc.bootstrap=YES'")
        else:
            self._start_as_first(node)
        self.wait_until_synced(node)

    def _start_as_first(self, node: MariaDbServer) -> None:
        state = node._folder / "data" / "grastate.dat"
        if node._child is not None and state.exists():
            text = state.read_text()
            state.write_text(text.replace("safe_to_bootstrap: 0", "safe_to_bootstrap: 1"))
        address = node.settings["wsrep_cluster_address"]
        node.settings["wsrep_cluster_address"] = "gcomm://"
        try:
            node.start()
        finally:
            node.settings["wsrep_cluster_address"] = address

    # --- databases -------------------------------------------------------------------------------

    def create_database(self) -> str:
        """Create an empty database, on all nodes, and return its name."""
        return self.nodes[0].create_database()


class _Node(MariaDbServer):
    """A server whose users are its own: they aren't replicated."""

    def _logins(self) -> str:
        return f"SET SESSION wsrep_on = OFF;\n{super()._logins()}{self._plain_login()}"


def find_provider() -> Path:
    """Return Galera's library.

    Raises:
        ServerUnavailableError: if it, or rsync, which copies data to a node that joins, isn't there.
    """
    library = next((Path(path) for path in _PROVIDERS if Path(path).is_file()), None)
    if library is None or shutil.which("rsync") is None:
        raise ServerUnavailableError(
            f"no Galera. Looked for {', '.join(_PROVIDERS)} and rsync on PATH. "
            "Debian: apt-get install -y --no-install-recommends galera-4 rsync lsof"
        )
    return library
