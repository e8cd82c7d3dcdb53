"""HAProxy in front of the nodes of a cluster, for tests."""

from __future__ import annotations

import csv
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from prefiq_db.testing.front import Front
from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.machine import LOOPBACK
from prefiq_db.testing.processes import wait_until

_BACKEND = "nodes"
_ANSWER_SECONDS = 5.0


class Place(Protocol):
    """What HAProxy has to know of a node."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class HAProxy(Front):
    """A private HAProxy that sends clients to a node that is fit for them.

    ``with HAProxy(cluster.nodes, is_fit=cluster.is_synced) as proxy: Database(proxy.url(cluster.url(name)))``

    Args:
        nodes: in the order of preference: all clients go to the first that is fit.
        is_fit: says whether clients may go to a node; asked twice a second, by HTTP, as the usual agents
            (``clustercheck``, Patroni) are; a node is left after two answers that it isn't, or that didn't come.
            Default: a node is fit when it accepts connections.
        check_ports: the ports where each node's own agent answers HTTP, instead of *is_fit*.
        check_path: what is asked there; the answer 200 means fit.
        balance: spread the clients over all nodes that are fit instead.

    Raises:
        ServerUnavailableError: if HAProxy isn't installed.
    """

    _program_name = "haproxy"
    _accounts = ("haproxy", "nobody")

    def __init__(
        self,
        nodes: Sequence[Place],
        *,
        is_fit: Callable[[Any], bool] | None = None,
        check_ports: Sequence[int] | None = None,
        check_path: str = "/",
        balance: bool = False,
    ) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self.balance = balance
        self._check_path = check_path
        self._check_ports = tuple(check_ports) if check_ports is not None else None
        self._agents = _Agents(self.nodes, is_fit) if is_fit is not None else None

    def start(self) -> HAProxy:
        """Start it and return when it listens.

        Its first checks may not be done then, and until they are, it takes every node for fit: a client may be sent to
        one that isn't, and cut off. :meth:`wait_until_checked` waits for them.
        """
        if self._agents is not None:
            self._agents.start()
            self._check_ports = self._agents.ports
        return super().start()

    def close(self) -> None:
        """End it and remove its files."""
        super().close()
        if self._agents is not None:
            self._agents.close()

    def url(self, url: str) -> str:
        """Return *url*, of a database on one or several nodes, with the address of the proxy instead."""
        scheme, _, rest = url.partition("://")
        login, _, place = rest.rpartition("@")
        return f"{scheme}://{login}@{self.host}:{self.port}/{place.partition('/')[2]}"

    def admin(self, command: str) -> str:
        """Run a command of HAProxy's admin socket and return its answer: ``show stat`` ..."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_ANSWER_SECONDS)
            link.connect(str(self._folder / "admin"))
            link.sendall(command.encode() + b"\n")
            answer = b""
            while part := link.recv(65536):
                answer += part
        return answer.decode()

    def states(self) -> Mapping[int, str]:
        """Return what HAProxy thinks of each node, by its place: ``UP``, ``DOWN``, ``DRAIN``, ``MAINT`` ..."""
        return {number: row["status"].split()[0] for number, row in self._rows()}

    def wait_until_checked(self, *, timeout_seconds: float = 60.0) -> None:
        """Wait until each node has been asked at least once, and one of them is fit.

        Raises:
            ServerUnavailableError: if that isn't so in that time.
        """

        def is_done() -> bool:
            rows = [row for _, row in self._rows()]
            # A check that runs now has a star before the result of the one before it.
            is_checked = all(row["check_status"].removeprefix("* ") not in ("", "INI") for row in rows)
            return is_checked and any(row["status"].startswith("UP") for row in rows)

        if not wait_until(is_done, timeout_seconds=timeout_seconds):
            raise ServerUnavailableError(f"no node is fit for HAProxy's clients within {timeout_seconds:g} s")

    def _rows(self) -> list[tuple[int, dict[str, str]]]:
        rows = csv.DictReader(self.admin("show stat").lstrip("# ").splitlines())
        return [
            (int(row["svname"].removeprefix("node")), row)
            for row in rows
            if row["pxname"] == _BACKEND and row["svname"].startswith("node")
        ]

    def drain(self, node: Place) -> None:
        """Send no more new connections to a node; those that it has stay."""
        self.admin(f"set server {_BACKEND}/node{self.nodes.index(node)} state drain")

    def ready(self, node: Place) -> None:
        """Send new connections to a drained node again."""
        self.admin(f"set server {_BACKEND}/node{self.nodes.index(node)} state ready")

    def _configure(self) -> None:
        checks = (
            [] if self._check_ports is None else ["option httpchk", f"http-check send meth GET uri {self._check_path}"]
        )
        lines = [
            "global",
            f"  stats socket {self._folder / 'admin'} mode 600 level admin",
            "defaults",
            "  mode tcp",
            "  timeout connect 2s",
            "  timeout client 10m",
            "  timeout server 10m",
            "  timeout check 5s",
            "listen nodes",
            f"  bind {self.host}:{self.port}",
            "  balance roundrobin",
            "  default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions",
            *(f"  {check}" for check in checks),
        ]
        for number, node in enumerate(self.nodes):
            port = "" if self._check_ports is None else f" port {self._check_ports[number]}"
            backup = "" if number == 0 or self.balance else " backup"
            lines.append(f"  server node{number} {node.host}:{node.port} check{port}{backup}")
        self._write("haproxy.cfg", "\n".join([*lines, ""]))

    def _command(self) -> list[str]:
        return [self._program, "-db", "-f", str(self._folder / "haproxy.cfg")]


class _Agents:
    """Says by HTTP whether a node is fit: each node has a port of its own."""

    def __init__(self, nodes: Sequence[Place], is_fit: Callable[[Any], bool]) -> None:
        self._nodes = nodes
        self._is_fit = is_fit
        self._servers: list[ThreadingHTTPServer] = []

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(server.server_address[1] for server in self._servers)

    def start(self) -> None:
        if self._servers:
            return
        for node in self._nodes:
            server = ThreadingHTTPServer((LOOPBACK, 0), self._make_handler(node))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            self._servers.append(server)

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()

    def _make_handler(self, node: Place) -> type[BaseHTTPRequestHandler]:
        is_fit = self._is_fit

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if is_fit(node) else 503)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Stay silent: HAProxy asks all the time."""

        return Handler
