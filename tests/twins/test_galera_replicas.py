"""A node of Galera as a replica: what its scope has written is seen there, or else on the primary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prefiq_db.testing import GaleraCluster
from prefiq_db.testing.mariadb_server import MariaDbServer
from prefiq_db.testing.processes import wait_until
from tests.clusters import run_alone
from tests.twins.test_read_your_writes import _forget, _read_each_way, _write_each_way

pytestmark = [pytest.mark.mariadb, pytest.mark.timeout(3600)]

PORT = "select @@port"
#: each way to write, with each way to read
PAIRS = 66
LOGS = {"log_bin": "binlog", "log_slave_updates": "ON"}


@pytest.fixture(scope="module", params=["unlogged", "logged"])
def galera(request: pytest.FixtureRequest) -> Iterator[GaleraCluster]:
    """Two nodes; without a binary log, as usual for Galera, no server tells a GTID."""
    with run_alone("galera", GaleraCluster, nodes=2, settings=LOGS if request.param == "logged" else {}) as cluster:
        yield cluster


@pytest.fixture
def name(galera: GaleraCluster) -> str:
    """A database with a table, on both nodes."""
    made = galera.create_database()
    galera.nodes[0].execute(f"create table {made}.item (id integer primary key, qty integer not null)")
    question = f"select 1 from information_schema.tables where table_schema = '{made}'"
    assert wait_until(lambda: galera.nodes[1].execute(question), timeout_seconds=30)
    return made


@contextmanager
def held_back(node: MariaDbServer) -> Iterator[None]:
    """Let *node* apply nothing that others commit."""
    connection = node.connect()
    try:
        connection.cursor().execute("flush tables with read lock")
        yield
    finally:
        connection.close()


def with_peer(galera: GaleraCluster, name: str, opened: Callable[..., Any], **fields: Any) -> Any:
    """Return a database on the first node, with the second as its replica."""
    first, second = galera.nodes
    return opened(galera.url(name, first), replicas=[{"url": galera.url(name, second), "name": "peer"}], **fields)


async def test_what_was_written_is_seen_on_a_peer_or_on_the_primary(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """However it was written and is read, no read is stale; the peer answers most of them."""
    db = with_peer(galera, name, opened, replica_wait_seconds=5)
    answered: Counter[int] = Counter()
    for number in range(PAIRS):
        _forget(db)
        await _write_each_way(db, number)
        row = await _read_each_way(db, number, PORT)
        assert row is not None
        assert row[0] == number
        answered[row[1]] += 1
    assert answered[galera.nodes[1].port] > PAIRS / 2


async def test_a_peer_that_is_held_back_is_not_read_too_early(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """It is waited for, at most ``replica_wait_seconds``; then the primary answers."""
    first, second = galera.nodes
    db = with_peer(galera, name, opened, replica_wait_seconds=0.05)
    select = f"select count(*) as found, ({PORT}) as port from item"
    assert await db.using(replica=True).fetch_one(select) == (0, second.port)
    with held_back(second):
        for number in range(11):
            await _write_each_way(db, number)
            assert await db.using(replica=True).fetch_one(select) == (number + 1, first.port)
            async with db.transaction(read_only=True, replica=True) as tx:
                assert await tx.fetch_one(select) == (number + 1, first.port)


async def test_control_what_is_forgotten_is_not_waited_for(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """The same read on the same node is stale without a mark."""
    second = galera.nodes[1]
    db = with_peer(galera, name, opened)
    select = f"select count(*) as found, ({PORT}) as port from item"
    assert await db.using(replica=True).fetch_one(select) == (0, second.port)
    with held_back(second):
        await db.execute("insert into item (id, qty) values (1, 1)")
        _forget(db)
        engine = db.engine_for("peer")
        reader = getattr(engine, "sync_engine", engine)
        reader.dialect.gate, gate = None, reader.dialect.gate  # nobody looks at the node first, either
        try:
            assert await db.using(replica=True).fetch_one(select) == (0, second.port)
        finally:
            reader.dialect.gate = gate


async def test_a_mark_tells_another_process_what_to_wait_for(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """The mark holds with another pool, on the peer when it has got that far and else on the primary."""
    first, second = galera.nodes
    writer, reader = with_peer(galera, name, opened), with_peer(galera, name, opened, replica_wait_seconds=0.05)
    select = f"select count(*) as found, ({PORT}) as port from item"
    assert await reader.using(replica=True).fetch_one(select) == (0, second.port)
    with held_back(second):
        await writer.execute("insert into item (id, qty) values (1, 1)")
        mark = await writer.mark()
        assert await reader.using(replica=True, after=mark).fetch_one(select) == (1, first.port)
    galera.wait_until_synced()
    patient = with_peer(galera, name, opened, replica_wait_seconds=10)
    assert await patient.using(replica=True, after=mark).fetch_one(select) == (1, second.port)


async def test_an_administrator_reads_on_a_peer_too(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """A user who may ask whom a server follows is told nobody, and a peer of the primary wasn't promoted."""
    first, second = galera.nodes
    db = opened(first.url(name), replicas=[second.url(name)])
    assert await db.using(replica=True).fetch_value(PORT) == second.port
    (told,) = db.stats().replicas
    assert (told.role, told.in_rotation) == ("replica", True)


@pytest.mark.parametrize("how", ["drained", "desynced"])
async def test_a_peer_that_is_out_of_step_gets_no_reads(
    how: str, galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """It may be as old as it likes; it gets reads again when it is in step."""
    first, second = galera.nodes
    db = with_peer(galera, name, opened)
    with getattr(galera, how)(second):
        assert await db.using(replica=True).fetch_value(PORT) == first.port
        assert [each.in_rotation for each in db.stats().replicas] == [False]
    again = with_peer(galera, name, opened)
    assert await again.using(replica=True).fetch_value(PORT) == second.port


async def test_with_every_node_written_to_no_read_is_stale(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """The node that is asked how far the cluster is may be another one than that which wrote."""
    second = galera.nodes[1]
    db = opened(
        galera.url(name), replicas=[galera.url(name, second)], write_to="any", pool_size=4, replica_wait_seconds=5
    )
    for number in range(PAIRS):
        await db.execute("insert into item (id, qty) values (:id, :id)", {"id": number})
        assert await db.using(replica=True).fetch_value("select count(*) from item") == number + 1
