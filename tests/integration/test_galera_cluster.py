"""A Galera cluster of our own: all nodes take writes; nodes are drained, cut off and killed, and come back."""

from __future__ import annotations

from collections.abc import Iterator

import pymysql
import pytest

from prefiq_db.errors import UsageError
from prefiq_db.testing import GaleraCluster, MariaDbServer
from prefiq_db.testing.processes import wait_until
from tests.clusters import PATIENCE_OF_TESTS, run_alone

pytestmark = [pytest.mark.mariadb, PATIENCE_OF_TESTS]

_NOT_READY = 1047


@pytest.fixture(scope="module")
def cluster() -> Iterator[GaleraCluster]:
    with run_alone("galera", GaleraCluster, nodes=3) as made:
        yield made


@pytest.fixture
def name(cluster: GaleraCluster) -> str:
    database = cluster.create_database()
    cluster.nodes[0].execute("create table item (id integer primary key)", database)
    return database


def ids(node: MariaDbServer, database: str) -> list[int]:
    """Return the numbers that a node has when it has applied all that the cluster had confirmed."""
    with node.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("set session wsrep_sync_wait = 1")
        cursor.execute("select id from item order by id")
        return [number for (number,) in cursor.fetchall()]


def insert(node: MariaDbServer, database: str, number: int) -> None:
    node.execute(f"insert into item values ({number})", database)


def refuses(node: MariaDbServer, database: str) -> bool:
    try:
        node.execute("select count(*) from item", database)
    except pymysql.OperationalError as error:
        return bool(error.args[0] == _NOT_READY)
    return False


def test_each_node_takes_writes_and_has_those_of_the_others(cluster: GaleraCluster, name: str) -> None:
    for number, node in enumerate(cluster.nodes):
        insert(node, name, number)
    assert [ids(node, name) for node in cluster.nodes] == [[0, 1, 2]] * 3
    assert all(cluster.is_synced(node) for node in cluster.nodes)
    assert cluster.url(name, cluster.nodes[1]).startswith("mariadb://prefiq_plain:")
    assert cluster.url(name).count(",") == 2


def test_a_node_that_is_drained_or_desynced_comes_back(cluster: GaleraCluster, name: str) -> None:
    node = cluster.nodes[0]
    with cluster.drained(node):
        assert refuses(node, name)
        insert(cluster.nodes[1], name, 1)
    with cluster.desynced(node):
        assert not cluster.is_synced(node)
        assert not refuses(node, name)
        insert(cluster.nodes[1], name, 2)
    assert cluster.is_synced(node)
    assert ids(node, name) == [1, 2]


def test_a_node_that_is_cut_off_refuses_work_and_the_others_go_on(cluster: GaleraCluster, name: str) -> None:
    alone, *others = cluster.nodes
    with cluster.partitioned(alone):
        assert refuses(alone, name)
        cluster.wait_until_size(2)
        insert(others[0], name, 1)
        with pytest.raises(UsageError, match="another node"):
            cluster.bootstrap(alone)
    assert ids(alone, name) == [1]


def test_without_a_majority_the_survivor_refuses_until_it_is_made_the_first(cluster: GaleraCluster, name: str) -> None:
    survivor, *killed = cluster.nodes
    insert(survivor, name, 1)
    for node in killed:
        node.kill()
    assert wait_until(lambda: refuses(survivor, name), timeout_seconds=60)
    cluster.bootstrap(survivor)
    insert(survivor, name, 2)
    for node in killed:
        node.start()
        cluster.wait_until_synced(node)
    cluster.wait_until_size(3)
    assert [ids(node, name) for node in cluster.nodes] == [[1, 2]] * 3
