"""PostgreSQL under Patroni, for tests: nodes that choose their primary themselves, by a Raft of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from prefiq_db.errors import UsageError
from prefiq_db.testing.cables import Cables
from prefiq_db.testing.database_names import new_database_name
from prefiq_db.testing.front import Front
from prefiq_db.testing.locate import POSTGRESQL, Search, ServerUnavailableError
from prefiq_db.testing.machine import free_ports, server_environment
from prefiq_db.testing.patroni_settings import (
    LAUNCHER,
    PARAMETERS,
    Addresses,
    api_settings,
    raft_settings,
    server_settings,
)
from prefiq_db.testing.processes import Account, account_for_root, wait_until
from prefiq_db.testing.templates import PASSWORD

if TYPE_CHECKING:
    import psycopg

_USER = "prefiq"
_CONNECT_TIMEOUT_SECONDS = 5
_READY_SECONDS = 180.0
_ANSWER_SECONDS = 5.0


class PatroniNode(Front):
    """One node: Patroni with the PostgreSQL server that it runs. Killed and frozen together, as a machine would be.

    Attributes:
        number: its place among the nodes.
        api_port: the port of Patroni's REST API.
    """

    _program_name = "patroni"
    _accounts = ("postgres", "nobody")
    _abort_signal = signal.SIGQUIT  # the server ends at once, and releases its shared memory

    def __init__(self, number: int, *, cluster: PatroniCluster) -> None:
        super().__init__()
        self.number = number
        self._cluster = cluster
        self._port, self.api_port, self.raft_port = cluster._ports[3 * number : 3 * number + 3]
        self.addresses = Addresses()
        if (cables := cluster._cables) is not None:
            self.addresses = Addresses(cables.peer_host(number), cables.host(number))
        self.host = self.addresses.clients

    def start(self) -> Self:
        """Start the node, and return at once: it works as soon as a majority of the nodes does."""
        if not self.running:
            self._spawn()
        return self

    def stop(self) -> None:
        """Shut Patroni and its server down in order; a primary hands its role over."""
        super().stop()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database on this node. It holds the password."""
        return f"postgresql://{_USER}:{PASSWORD}@{self.host}:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Return a connection of the administrator's, in autocommit; the caller closes it."""
        import psycopg

        return psycopg.connect(self.url(database), autocommit=True, connect_timeout=_CONNECT_TIMEOUT_SECONDS)

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the administrator, in autocommit on a separate connection; return its rows."""
        with self.connect(database) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def takes_writes(self) -> bool:
        """Tell whether Patroni calls this node the primary, and its server has been promoted: that comes later."""
        import psycopg

        if not self.running or self.ask("/primary")[0] != 200:
            return False
        try:
            return self.execute("select pg_is_in_recovery()") == [(False,)]
        except psycopg.Error:
            return False

    def ask(self, path: str, given: Mapping[str, Any] | None = None) -> tuple[int, str]:
        """Ask Patroni's REST API; with *given*, by POST. Return the HTTP status, 0 without an answer, and the text."""
        body = None if given is None else json.dumps(given).encode()
        request = urllib.request.Request(f"http://{self.host}:{self.api_port}{path}", data=body)
        # Straight to it: the environment may name a proxy.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_ANSWER_SECONDS if body is None else _READY_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError:
            return 0, ""

    def _find(self) -> str:
        return str(find_patroni() / "patroni")

    def _configure(self) -> None:
        self._write("launch.py", LAUNCHER)
        self._write("patroni.json", json.dumps(self._cluster._settings_of(self, self._folder)))

    def _command(self) -> list[str]:
        python = Path(self._program).with_name("python")
        files = (self._folder / name for name in ("launch.py", "patroni.json", "data/postmaster.pid"))
        command = [str(python), *map(str, files)]
        cables = self._cluster._cables
        return command if cables is None else cables.command_of(self.number, command, super()._account())

    def _account(self) -> Account | None:
        return super()._account() if self._cluster._cables is None else None  # it is changed in the node's network


class PatroniCluster:
    """PostgreSQL nodes under Patroni: ``with PatroniCluster(nodes=3) as cluster: cluster.primary.kill()``.

    They choose another primary by themselves, at most about ``ttl_seconds + loop_wait_seconds`` after the old one died;
    one that is shut down, or asked to, hands over at once. A node that comes back follows the primary, without what it
    alone had.

    Args:
        nodes: how many; a majority must run.
        synchronous: confirm a COMMIT only when another node has received it, so that a failover loses nothing.
        ttl_seconds: how long a primary that says nothing keeps its role; one that waits long for a processor says
            nothing, too. Patroni's own least is 20 s.
        settings: further settings of PostgreSQL, for all.
        networked: give each node a network of its own, so that it can be :meth:`partitioned`; on Linux, for root.

    Raises:
        ServerUnavailableError: if there is no PostgreSQL or no Patroni, or no such network; the message says what to
            install.
    """

    def __init__(
        self,
        *,
        nodes: int = 3,
        synchronous: bool = True,
        ttl_seconds: int = 15,
        settings: Mapping[str, str] | None = None,
        networked: bool = False,
    ) -> None:
        search = Search(POSTGRESQL)
        programs = search.programs()
        if programs is None:
            raise search.failure()
        self._bin = programs["postgres"].parent
        self.synchronous = synchronous
        self.ttl_seconds = ttl_seconds
        self.loop_wait_seconds = 1
        self.settings = dict(settings or {})
        self._cables = Cables(nodes) if networked else None
        self._ports = free_ports(3 * nodes)
        self.nodes = tuple(PatroniNode(number, cluster=self) for number in range(nodes))
        self._stack = ExitStack()

    # --- life cycle ------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start all nodes and return when one is the primary and the others follow it."""
        with ExitStack() as stack:
            if self._cables is not None:
                stack.callback(self._cables.close)
                self._cables.start()
            for node in self.nodes:
                stack.callback(node.close)
                node.start()
            self.wait_until_healthy()
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        """End all nodes and remove their data."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- roles -----------------------------------------------------------------------------------

    @property
    def primary(self) -> PatroniNode:
        """The node that is the primary now.

        Raises:
            ServerUnavailableError: if none is.
        """
        found = self._primary()
        if found is None:
            raise ServerUnavailableError("no node of the cluster is the primary now")
        return found

    @property
    def replicas(self) -> tuple[PatroniNode, ...]:
        """The nodes that follow the primary now."""
        return tuple(node for node in self.nodes if node.running and node.ask("/replica")[0] == 200)

    def wait_for_primary(
        self, *, other_than: PatroniNode | None = None, timeout_seconds: float = _READY_SECONDS
    ) -> PatroniNode:
        """Return the primary as soon as there is one, and it isn't *other_than*.

        Raises:
            ServerUnavailableError: if there is none in that time.
        """
        found: list[PatroniNode] = []

        def is_there() -> bool:
            node = self._primary(other_than)
            if node is not None:
                found.append(node)
            return bool(found)

        if not wait_until(is_there, timeout_seconds=timeout_seconds):
            raise ServerUnavailableError(f"no primary within {timeout_seconds:g} s; logs end:\n{self._logs()}")
        return found[0]

    def wait_until_healthy(self, *, timeout_seconds: float = _READY_SECONDS) -> None:
        """Wait until each running node is the primary, or follows it and streams; one of these synchronously.

        Raises:
            ServerUnavailableError: if they aren't in that time.
        """
        if not wait_until(self._is_healthy, timeout_seconds=timeout_seconds, poll_seconds=0.1):
            raise ServerUnavailableError(f"not healthy within {timeout_seconds:g} s; logs end:\n{self._logs()}")

    def switch_over(self, replica: PatroniNode | None = None) -> PatroniNode:
        """Ask Patroni to change the primary in order, and return the new one; *replica*: to that node.

        With ``synchronous``, call :meth:`wait_until_healthy` before you kill the new primary: until a standby follows
        it synchronously, Patroni has none that it may promote, and there is no primary until the old one is started.

        Raises:
            UsageError: if Patroni refuses; the message has its reason.
        """
        old = self.primary
        given = {"leader": f"node{old.number}"}
        if replica is not None:
            given["candidate"] = f"node{replica.number}"
        status, text = old.ask("/switchover", given)
        if status != 200:
            raise UsageError(f"Patroni refused to switch over ({status}): {text}")
        return self.wait_for_primary(other_than=old)

    def restart(self, node: PatroniNode) -> None:
        """Ask Patroni to restart the PostgreSQL server of a node, in place.

        Raises:
            UsageError: if Patroni refuses; the message has its reason.
        """
        status, text = node.ask("/restart", {})
        if status != 200:
            raise UsageError(f"Patroni refused to restart ({status}): {text}")

    @contextmanager
    def partitioned(self, *nodes: PatroniNode) -> Iterator[None]:
        """Cut each of *nodes* off from all others, as a pulled cable does: nobody is told. Clients still reach it.

        Patroni demotes a primary that hears of no majority; the others choose another after its ``ttl_seconds``.

        Raises:
            UsageError: if the cluster isn't ``networked``.
        """
        if self._cables is None:
            raise UsageError("only the nodes of PatroniCluster(networked=True) can be cut off from each other")
        for node in nodes:
            self._cables.pull(node.number)
        try:
            yield
        finally:
            for node in nodes:
                self._cables.plug(node.number)

    # --- databases -------------------------------------------------------------------------------

    @property
    def check_ports(self) -> tuple[int, ...]:
        """Where each node says by HTTP what it is: ``HAProxy(nodes, check_ports=..., check_path="/primary")``."""
        return tuple(node.api_port for node in self.nodes)

    def url(self, database: str, *nodes: PatroniNode) -> str:
        """Return the URL of a database with the hosts of *nodes*; without any, of all nodes. It holds the password."""
        places = ",".join(f"{node.host}:{node.port}" for node in nodes or self.nodes)
        return f"postgresql://{_USER}:{PASSWORD}@{places}/{database}"

    def create_database(self) -> str:
        """Create an empty database on the primary and return its name."""
        database = new_database_name()
        self.primary.execute(f'create database "{database}" template template0')
        return database

    # --- inside ----------------------------------------------------------------------------------

    def _primary(self, other_than: PatroniNode | None = None) -> PatroniNode | None:
        return next((node for node in self.nodes if node is not other_than and node.takes_writes()), None)

    def _is_healthy(self) -> bool:
        running = [node for node in self.nodes if node.running]
        primary = self._primary()
        if primary is None:
            return False
        status, text = primary.ask("/cluster")
        members = json.loads(text)["members"] if status == 200 else []
        states = {member["name"]: (member["role"], member["state"]) for member in members}
        follow = [states.get(f"node{node.number}", ("", "")) for node in running if node is not primary]
        needs_one = self.synchronous and bool(follow)
        return all(state == "streaming" for _, state in follow) and (
            not needs_one or any(role == "sync_standby" for role, _ in follow)
        )

    def _logs(self) -> str:
        return "\n".join(node.log[-1500:] for node in self.nodes)

    def _settings_of(self, node: PatroniNode, folder: Path) -> dict[str, Any]:
        places = {each: f"{each.addresses.peers}:{each.raft_port}" for each in self.nodes}
        partners = [place for each, place in places.items() if each is not node]
        account = {"username": _USER, "password": PASSWORD}
        return {
            "scope": "prefiq",
            "name": f"node{node.number}",
            "restapi": api_settings(node.addresses, node.api_port),
            "raft": raft_settings(folder, places[node], partners),
            "bootstrap": {
                "dcs": {
                    "ttl": self.ttl_seconds,
                    "loop_wait": self.loop_wait_seconds,
                    "retry_timeout": max(3, (self.ttl_seconds - self.loop_wait_seconds) // 2 - 1),
                    "synchronous_mode": self.synchronous,
                    "postgresql": {"use_pg_rewind": True, "parameters": {**PARAMETERS, **self.settings}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, {"auth": "scram-sha-256"}, "no-sync"],
            },
            "postgresql": server_settings(folder, self._bin, node.addresses, node.port, account),
            "watchdog": {"mode": "off"},
        }


def find_patroni() -> Path:
    """Return the folder of Patroni's programs: ``PATRONI_BIN``, or ``.patroni/bin`` in this repository.

    Raises:
        ServerUnavailableError: if there is none that PostgreSQL's user can run.
    """
    here = [folder / ".patroni" / "bin" for folder in (Path.cwd(), *Path(__file__).resolve().parents[3:4])]
    folders: Sequence[Path] = [Path(given)] if (given := os.environ.get("PATRONI_BIN")) else here
    for folder in folders:
        if os.access(folder / "patroni", os.X_OK) and _runs(folder / "python"):
            return folder
    raise ServerUnavailableError(
        f"no Patroni that its user can run. Looked in {', '.join(map(str, folders))}. In a checkout, run "
        "scripts/install-patroni; elsewhere, in the working directory: python3 -m venv .patroni && .patroni/bin/pip "
        "install 'patroni[raft]' 'psycopg[binary]'. Or set PATRONI_BIN to the bin folder of such an environment"
    )


def _runs(python: Path) -> bool:
    account = account_for_root("postgres", "nobody")
    try:
        done = subprocess.run(
            [str(python), "-c", "import patroni, pysyncobj, psycopg"],
            capture_output=True,
            cwd="/",
            env=server_environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0
