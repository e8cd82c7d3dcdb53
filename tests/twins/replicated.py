"""A primary with replicas for the tests, and what arrives at each server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from prefiq_db import DatabaseSettings
from prefiq_db.testing import MariaDbCluster, MariaDbServer, PostgresCluster, PostgresServer
from prefiq_db.testing.links import Link
from prefiq_db.testing.wire import WireCounter
from tests.conftest import _find
from tests.twins.harness import drive, make_database

BOTH = [
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]
PORT = {"postgresql": "select cast(current_setting('port') as integer)", "mariadb": "select @@port"}


class Recorder(WireCounter):
    """Counts round trips, and keeps what clients sent."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.sent = b""

    def client_sent(self, link: Link, data: bytes) -> bytes:
        self.sent += data
        return super().client_sent(link, data)


@dataclass
class Replicated:
    """A database on a cluster, reached through a recorder for each node: the primary's first."""

    kind: str
    cluster: Any
    name: str
    recorders: list[Recorder]
    make: Callable[..., Any]
    _held: list[Any] = field(default_factory=list)

    @property
    def port_sql(self) -> str:
        """A statement that says which server answers."""
        return PORT[self.kind]

    @property
    def ports(self) -> list[int]:
        """The servers' own ports, the first primary's first."""
        return [node.port for node in self.cluster.nodes]

    def url(self, number: int, *, direct: bool = False) -> str:
        node = self.cluster.nodes[number]
        url = self.cluster.url(self.name, node)
        return str(url if direct else self.recorders[number].url(url))

    def database(self, *, recorded: bool = True, **fields: Any) -> Any:
        """Return a database of the test's world; it is closed at the end of the test.

        Args:
            recorded: reached through the recorders, which take their time.
        """
        url, *others = (self.url(number, direct=not recorded) for number in range(len(self.cluster.nodes)))
        replicas = [{"url": other, "name": f"r{number}"} for number, other in enumerate(others, 1)]
        given = {"replicas": replicas, "ssl_mode": "disable", "pool_size": 2, **fields}
        return self.make(DatabaseSettings(url=url, **given))

    def hold_back(self, seconds: float) -> None:
        """Let every replica apply what is committed only *seconds* later."""
        for node in self.cluster.replicas:
            self.cluster.hold_back(node, seconds)


def make_cluster(kind: str, replicas: int) -> Any:
    _find(PostgresServer if kind == "postgresql" else MariaDbServer)
    return (PostgresCluster if kind == "postgresql" else MariaDbCluster)(replicas=replicas, synchronous=False)


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[tuple[str, int], Any]]:
    """The clusters of a module, started when first asked for."""
    with ExitStack() as stack:
        made: dict[tuple[str, int], Any] = {}
        made_by = stack.enter_context  # closes them

        class Started(dict[tuple[str, int], Any]):
            def __missing__(self, key: tuple[str, int]) -> Any:
                self[key] = made_by(make_cluster(*key))
                return self[key]

        made = Started()
        yield made


@pytest.fixture
def replicated(
    request: pytest.FixtureRequest, clusters: dict[tuple[str, int], Any], world: str, loop_runner: Any
) -> Iterator[Replicated]:
    """A new database on a primary with two replicas, which are not held back."""
    cluster = clusters[request.param, 2]
    yield from on_cluster(request.param, cluster, world, loop_runner)
    for node in cluster.replicas:
        cluster.hold_back(node, 0)


def on_cluster(kind: str, cluster: Any, world: str, loop_runner: Any) -> Iterator[Replicated]:
    run = loop_runner.run if world == "async" else drive
    databases: list[Any] = []

    def make(settings: DatabaseSettings) -> Any:
        databases.append(make_database(world, settings))  # type: ignore[arg-type]
        return databases[-1]

    with ExitStack() as stack:
        recorders = [stack.enter_context(Recorder(node.host, node.port)) for node in cluster.nodes]
        name = cluster.create_database()
        made = Replicated(kind, cluster, name, recorders, make)
        cluster.catch_up()
        try:
            yield made
        finally:
            for database in databases:
                run(database.close())
