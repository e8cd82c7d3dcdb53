"""pgbouncer and HAProxy of our own in front of servers: connect, commit, lose the server's session, drain."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefiq_db import Database, RetryPolicy, Transaction
from prefiq_db.drivers import readable
from prefiq_db.errors import AvailabilityError, ErrorKind, PrefiqDbError, UsageError
from prefiq_db.testing import (
    DatabaseServer,
    HAProxy,
    MariaDbCluster,
    MariaDbServer,
    PgBouncer,
    PostgresServer,
    ServerUnavailableError,
)
from prefiq_db.testing.processes import wait_until
from tests.clusters import find
from tests.conftest import _find

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def database(postgresql_server: DatabaseServer) -> Iterator[str]:
    name = postgresql_server.create_database()
    postgresql_server.execute("create table item (id integer primary key)", name)
    yield name
    postgresql_server.drop_database(name)


@pytest.fixture(params=["transaction", "session"])
def pooler(request: pytest.FixtureRequest, postgresql_server: DatabaseServer) -> Iterator[PgBouncer]:
    with find("pgbouncer", PgBouncer, server=postgresql_server, mode=request.param) as made:
        yield made


# --- pgbouncer -----------------------------------------------------------------------------------


def test_a_transaction_through_pgbouncer(pooler: PgBouncer, database: str) -> None:
    """In both modes, also when the session behind it is ended: what was confirmed stays, and work goes on."""
    with Database(pooler.url(database), pgbouncer=True, pool_size=1) as db:
        with db.transaction() as tx:
            tx.execute("insert into item values (1)")
        with db.transaction() as tx:
            tx.execute("insert into item values (2)")
            assert pooler.server.execute(_END_SESSIONS, database) == [(True,)]
            with pytest.raises(AvailabilityError):
                tx.execute("insert into item values (3)")
            tx.rollback()
        attempts: list[int] = []

        def body(tx: Any) -> None:
            attempts.append(1)
            tx.execute("insert into item values (4)")
            if len(attempts) == 1:
                assert pooler.server.execute(_END_SESSIONS, database) == [(True,)]
            tx.execute("insert into item values (5)")

        db.run_in_transaction(body)
        assert len(attempts) == 2
        assert [row.id for row in db.fetch_all("select id from item order by id")] == [1, 4, 5]


_END_SESSIONS = (
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
    " and xact_start is not null and pid <> pg_backend_pid()"
)


def test_pgbouncer_is_drained_without_a_failed_call(pooler: PgBouncer, database: str) -> None:
    """Work waits at PAUSE, and goes on afterwards. In session mode that is for new clients only."""
    db = Database(pooler.url(database), pgbouncer=True, pool_size=1)
    try:
        db.execute("insert into item values (1)")
        if pooler.mode == "session":
            db.close()  # PAUSE waits until the clients have gone
            db = Database(pooler.url(database), pgbouncer=True, pool_size=1)
        pooler.drain()
        worker = threading.Thread(target=db.execute, args=("insert into item values (2)",))
        worker.start()
        assert wait_until(lambda: _waiting(pooler) == 1, timeout_seconds=_PATIENCE_SECONDS)
        pooler.resume()
        worker.join(_PATIENCE_SECONDS)
        assert not worker.is_alive()
        assert db.fetch_value("select count(*) from item") == 2
    finally:
        db.close()


def _waiting(pooler: PgBouncer) -> int:
    return sum(int(pool["cl_waiting"]) for pool in pooler.admin("SHOW POOLS"))


class ChoosyPgBouncer(PgBouncer):
    """One that knows a single database, by its name."""

    def _configure(self) -> None:
        super()._configure()
        path = self._folder / "pgbouncer.ini"
        self._write(path.name, path.read_text().replace("* = host", "shop = dbname=postgres host"))


def test_what_pgbouncer_refuses_at_login_is_what_it_says(postgresql_server: DatabaseServer) -> None:
    """An unknown database or user isn't tried again, and one that is disabled for a while is."""
    with find("pgbouncer", ChoosyPgBouncer, server=postgresql_server) as pooler:
        url = pooler.url("shop")

        def refused(url: str) -> PrefiqDbError:
            db = Database(url, pgbouncer=True, retry=_ONCE)
            with pytest.raises(PrefiqDbError) as caught:
                db.fetch_value("select 1")
            db.close()
            return caught.value

        with Database(url, pgbouncer=True) as db:
            assert db.fetch_value("select 1") == 1
            pooler.admin("DISABLE shop")
            error = refused(url)
            assert (error.kind, error.is_transient) == (ErrorKind.NOT_READY, True)
            pooler.admin("ENABLE shop")
            assert db.fetch_value("select 1") == 1
        error = refused(pooler.url("shoe"))
        assert (error.kind, error.is_transient) == (ErrorKind.SCHEMA, False)
        error = refused(url.replace(f"{postgresql_server.user}:", "nobody_here:", 1))
        assert (error.kind, error.is_transient) == (ErrorKind.AUTHENTICATION, False)


def test_pgbouncer_is_pointed_to_another_server(
    pooler: PgBouncer, new_postgresql_server: Callable[..., DatabaseServer]
) -> None:
    first, other = pooler.server, new_postgresql_server()

    def port() -> int:
        with Database(pooler.url("postgres"), pgbouncer=True, pool_size=1) as db:
            return port_behind(db, "postgresql")

    assert port() == first.port
    pooler.point_to(other)
    assert wait_until(lambda: port() == other.port, timeout_seconds=_PATIENCE_SECONDS)


def test_pgbouncer_comes_back_on_its_port(postgresql_server: DatabaseServer, database: str) -> None:
    with find("pgbouncer", PgBouncer, server=postgresql_server) as pooler:
        port, folder = pooler.port, pooler._folder
        with Database(pooler.url(database), pgbouncer=True, pool_size=1) as db:
            db.execute("insert into item values (1)")
            pooler.kill()
            assert not pooler.running
            pooler.start()
            assert pooler.port == port
            db.execute("insert into item values (2)")
        assert folder.exists()
    assert not folder.exists()
    with pytest.raises(UsageError, match="was closed"):
        pooler.kill()


# --- HAProxy -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgresql_nodes() -> Iterator[list[DatabaseServer]]:
    _find(PostgresServer)
    with PostgresServer() as first, PostgresServer() as second:
        yield [first, second]


@pytest.fixture(scope="module")
def mariadb_nodes() -> Iterator[list[DatabaseServer]]:
    _find(MariaDbServer)
    with MariaDbCluster(synchronous=False) as cluster:
        yield list(cluster.nodes)


@pytest.fixture(
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def nodes(request: pytest.FixtureRequest) -> list[DatabaseServer]:
    found: list[DatabaseServer] = request.getfixturevalue(f"{request.param}_nodes")
    return found


_PATIENCE_SECONDS = 60.0
_PATIENT = RetryPolicy(attempts=1000, wait_initial_seconds=0.02, wait_max_seconds=0.2, total_seconds=_PATIENCE_SECONDS)
_ONCE = RetryPolicy(attempts=1)
_PORT = {"postgresql": "select setting from pg_settings where name = 'port'", "mariadb": "select @@port"}


def port_behind(db: Database, kind: str) -> int:
    """Return the port of the server that a proxy leads to, by a read, which is repeated when its connection ends.

    Of a statement that calls a function such as ``inet_server_port()``, nobody knows whether it may be repeated.
    """
    return int(db.fetch_value(_PORT[kind]))


def test_haproxy_sends_to_the_first_node_that_is_fit(nodes: list[DatabaseServer]) -> None:
    """What isn't fit any more is left, with the connections to it; a retry finds the next one.

    HAProxy ends the connections after it says so, and on a busy machine it may take a slow answer for a bad one.
    """
    unfit: set[Any] = set()
    with (
        find("haproxy", HAProxy, nodes=nodes, is_fit=lambda node: node not in unfit) as proxy,
        Database(proxy.url(nodes[0].url()), retry=_PATIENT) as db,
    ):

        def leads_to(node: DatabaseServer) -> bool:
            return wait_until(lambda: port_behind(db, node.name) == node.port, timeout_seconds=_PATIENCE_SECONDS)

        def thinks(*states: str) -> bool:
            wanted = dict(enumerate(states))
            return wait_until(lambda: proxy.states() == wanted, timeout_seconds=_PATIENCE_SECONDS)

        assert thinks("UP", "UP")
        assert leads_to(nodes[0])
        unfit.add(nodes[0])
        assert thinks("DOWN", "UP")
        assert leads_to(nodes[1])
        unfit.clear()
        unfit.add(nodes[1])
        assert thinks("UP", "DOWN")
        assert leads_to(nodes[0])
        unfit.add(nodes[0])
        assert thinks("DOWN", "DOWN")
        with pytest.raises(AvailabilityError) as nobody, Database(proxy.url(nodes[0].url()), retry=_ONCE) as other:
            other.fetch_value("select 1")
        assert nobody.value.is_transient


class ShortHAProxy(HAProxy):
    """One that ends a connection on which nothing was said for a second."""

    def _configure(self) -> None:
        super()._configure()
        path = self._folder / "haproxy.cfg"
        lines = path.read_text()
        for side in ("client", "server"):
            assert f"timeout {side} 10m" in lines
            lines = lines.replace(f"timeout {side} 10m", f"timeout {side} 1s")
        self._write(path.name, lines)


@pytest.mark.parametrize("then", ["commit", "statement", "last"])
def test_a_pause_longer_than_haproxys_limit_costs_no_transaction(nodes: list[DatabaseServer], then: str) -> None:
    """Whatever comes next, the transaction runs again, and is there once; between transactions nothing is noticed."""
    name = nodes[0].create_database()
    add = "update stock set quantity = quantity + 1"

    def is_readable_soon(descriptor: int) -> bool:
        return wait_until(lambda: readable.is_readable(descriptor), timeout_seconds=_PATIENCE_SECONDS)

    with find("haproxy", ShortHAProxy, nodes=nodes[:1]) as proxy, Database(proxy.url(nodes[0].url(name))) as db:
        db.execute("create table stock (quantity integer not null)")
        db.execute("insert into stock values (0)")
        runs: list[Any] = []

        def body(tx: Transaction) -> None:
            runs.append(tx)
            tx.execute(add)
            if len(runs) == 1:
                is_readable_soon(_socket_of(tx))
            if then != "commit":
                tx.execute(add, last=then == "last")

        db.run_in_transaction(body)
        assert len(runs) == 2
        assert db.fetch_value("select quantity from stock") == (1 if then == "commit" else 2)
        assert db.stats().unknown_outcome_count == 0
    nodes[0].drop_database(name)


def _socket_of(tx: Transaction) -> int:
    proxied = tx.connection.connection
    found = tx.connection.dialect.socket_of(proxied.dbapi_connection)  # type: ignore[attr-defined]  # ours have it
    assert found is not None
    return int(found)


def test_whoever_waits_for_the_first_checks_is_sent_to_a_fit_node(nodes: list[DatabaseServer]) -> None:
    """Before them HAProxy takes every node for fit, and cuts off whom it sent to one that isn't."""
    with find("haproxy", HAProxy, nodes=nodes, is_fit=lambda node: node is nodes[1]) as proxy:
        proxy.wait_until_checked()
        assert proxy.states() == {0: "DOWN", 1: "UP"}
        with Database(proxy.url(nodes[0].url()), retry=_ONCE) as db:
            assert port_behind(db, nodes[0].name) == nodes[1].port
    with (
        find("haproxy", HAProxy, nodes=nodes, is_fit=lambda node: False) as proxy,
        pytest.raises(ServerUnavailableError, match="no node is fit"),
    ):
        proxy.wait_until_checked(timeout_seconds=1)


def test_haproxy_drains_a_node(nodes: list[DatabaseServer]) -> None:
    """Open connections stay and finish their work; new ones go elsewhere."""
    with find("haproxy", HAProxy, nodes=nodes) as proxy:
        url = proxy.url(nodes[0].url())
        question = _PORT[nodes[0].name]
        with Database(url) as old, old.transaction() as tx:
            assert int(tx.fetch_value(question)) == nodes[0].port
            proxy.drain(nodes[0])
            assert wait_until(lambda: proxy.states()[0] == "DRAIN", timeout_seconds=_PATIENCE_SECONDS)
            with Database(url) as new:
                assert int(new.fetch_value(question)) == nodes[1].port
            assert int(tx.fetch_value(question)) == nodes[0].port
            proxy.ready(nodes[0])
            assert wait_until(lambda: proxy.states()[0] == "UP", timeout_seconds=_PATIENCE_SECONDS)
