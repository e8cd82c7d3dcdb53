"""PostgreSQL under Patroni: the nodes fail over and switch over by themselves, and who comes back follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from prefiq_db import Database
from prefiq_db.errors import UsageError
from prefiq_db.testing import HAProxy, PatroniCluster, PostgresServer
from prefiq_db.testing.patroni_cluster import PatroniNode
from prefiq_db.testing.processes import wait_until
from tests.clusters import PATIENCE_OF_TESTS, find, run_alone
from tests.conftest import _find
from tests.integration.test_poolers import port_behind

pytestmark = [pytest.mark.postgresql, PATIENCE_OF_TESTS]


_PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[PatroniCluster]:
    _find(PostgresServer)
    with run_alone("patroni", PatroniCluster, nodes=3) as made:
        yield made


@pytest.fixture
def name(cluster: PatroniCluster) -> str:
    cluster.wait_until_healthy()
    database = cluster.create_database()
    cluster.primary.execute("create table item (id integer primary key)", database)
    return database


def has(node: PatroniNode, database: str, *wanted: int) -> bool:
    return node.execute("select id from item order by id", database) == [(number,) for number in wanted]


def test_the_replicas_have_what_was_written(cluster: PatroniCluster, name: str) -> None:
    primary = cluster.primary
    primary.execute("insert into item values (1)", name)
    assert len(cluster.replicas) == 2
    assert primary not in cluster.replicas
    for replica in cluster.replicas:
        assert wait_until(lambda replica=replica: has(replica, name, 1), timeout_seconds=_PATIENCE_SECONDS)
        with pytest.raises(Exception, match="read-only"):
            replica.execute("insert into item values (2)", name)
    assert cluster.url(name).count(",") == 2


def test_haproxy_asks_patroni_who_the_primary_is(cluster: PatroniCluster, name: str) -> None:
    """Through a switch-over a client finds the new primary without any host of its own."""
    with (
        find("haproxy", HAProxy, nodes=cluster.nodes, check_ports=cluster.check_ports, check_path="/primary") as proxy,
        Database(proxy.url(cluster.url(name))) as db,
    ):
        # Until its first checks are done, HAProxy thinks that each node is fit; and it ends sessions when it finds out.
        old = cluster.wait_for_primary()
        assert wait_until(lambda: _only_up(proxy) == old.number, timeout_seconds=_PATIENCE_SECONDS)
        assert wait_until(lambda: port_behind(db, "postgresql") == old.port, timeout_seconds=_PATIENCE_SECONDS)
        new = cluster.switch_over()
        assert new is not old
        cluster.wait_until_healthy()
        assert wait_until(lambda: _only_up(proxy) == new.number, timeout_seconds=_PATIENCE_SECONDS)
        assert wait_until(lambda: port_behind(db, "postgresql") == new.port, timeout_seconds=_PATIENCE_SECONDS)


def _only_up(proxy: HAProxy) -> int | None:
    up = [number for number, state in proxy.states().items() if state == "UP"]
    return up[0] if len(up) == 1 else None


@pytest.mark.parametrize(
    ("end", "bring_back"), [(PatroniNode.kill, PatroniNode.start), (PatroniNode.freeze, PatroniNode.thaw)]
)
def test_a_dead_primary_is_replaced_and_follows_when_it_comes_back(
    cluster: PatroniCluster, name: str, end: Callable[[PatroniNode], None], bring_back: Callable[[PatroniNode], None]
) -> None:
    """What was confirmed is there."""
    old = cluster.primary
    old.execute("insert into item values (1)", name)
    end(old)
    try:
        new = cluster.wait_for_primary(other_than=old)
        assert has(new, name, 1)
        new.execute("set synchronous_commit = local; insert into item values (2)", name)
    finally:
        bring_back(old)  # the other tests need it, too
    cluster.wait_until_healthy()
    assert cluster.primary is new
    assert wait_until(lambda: has(old, name, 1, 2), timeout_seconds=_PATIENCE_SECONDS)


def test_only_nodes_with_a_network_of_their_own_are_cut_off(cluster: PatroniCluster) -> None:
    with pytest.raises(UsageError, match="networked=True"), cluster.partitioned(cluster.nodes[0]):
        raise AssertionError("it was cut off")


def test_a_server_restarts_in_place(cluster: PatroniCluster) -> None:
    replica = cluster.replicas[0]
    started = replica.execute("select pg_postmaster_start_time()")
    cluster.restart(replica)
    cluster.wait_until_healthy()
    assert replica.execute("select pg_postmaster_start_time()") != started
    with pytest.raises(UsageError, match="refused to switch over"):
        cluster.switch_over(cluster.primary)
