"""A PostgreSQL cluster of our own: its replicas follow, are held back, take over, and an old primary rejoins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefiq_db.errors import UsageError
from prefiq_db.testing import PostgresCluster, PostgresPair, PostgresServer
from prefiq_db.testing.processes import wait_until
from tests.conftest import _find

pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def cluster() -> Iterator[PostgresCluster]:
    _find(PostgresServer)
    with PostgresCluster(replicas=2) as made:
        yield made


@pytest.fixture
def name(cluster: PostgresCluster) -> Iterator[str]:
    database = cluster.create_database()
    cluster.primary.execute("create table item (id integer primary key)", database)
    cluster.catch_up()
    yield database
    cluster.primary.drop_database(database)


def ids(server: PostgresServer, database: str) -> list[int]:
    return [number for (number,) in server.execute("select id from item order by id", database)]


def insert(server: PostgresServer, database: str, *numbers: int) -> None:
    for number in numbers:
        server.execute(f"insert into item values ({number})", database)


def test_each_replica_has_what_was_written_and_takes_no_writes(cluster: PostgresCluster, name: str) -> None:
    insert(cluster.primary, name, 1, 2)
    cluster.catch_up()
    for replica in cluster.replicas:
        assert ids(replica, name) == [1, 2]
        assert replica.execute("select pg_is_in_recovery()") == [(True,)]
        with pytest.raises(Exception, match="read-only"):
            insert(replica, name, 3)


def test_a_replica_held_back_is_behind_and_the_other_is_not(cluster: PostgresCluster, name: str) -> None:
    late, timely = cluster.replicas
    cluster.hold_back(late, 3600)
    insert(cluster.primary, name, 1)
    assert wait_until(lambda: ids(timely, name) == [1], timeout_seconds=30)
    assert ids(late, name) == []
    cluster.hold_back(late, 0)
    cluster.catch_up()
    assert ids(late, name) == [1]


def test_a_replica_that_was_killed_or_frozen_catches_up(cluster: PostgresCluster, name: str) -> None:
    first, second = cluster.replicas
    first.kill()
    insert(cluster.primary, name, 1)
    first.start()
    second.freeze()
    cluster._await_attached(first)
    insert(cluster.primary, name, 2)
    second.thaw()
    cluster.catch_up()
    assert ids(first, name) == ids(second, name) == [1, 2]


def test_after_a_failover_all_follow_the_new_primary(cluster: PostgresCluster, name: str) -> None:
    """Nothing confirmed is lost, the other replica follows, and so does the old primary, without what it alone has."""
    insert(cluster.primary, name, 1)
    old, place = cluster.primary, cluster.url(name)
    old.kill()
    promoted = cluster.promote()
    assert promoted is not old
    assert ids(promoted, name) == [1]
    insert(promoted, name, 2)
    old.start()
    assert old.execute("select pg_is_in_recovery()") == [(False,)], "it takes itself for the primary"
    old.execute("set synchronous_commit = local; insert into item values (99)", name)
    cluster.rejoin(old)
    assert len(cluster.replicas) == 2
    insert(promoted, name, 3)
    cluster.catch_up()
    assert [ids(node, name) for node in cluster.nodes] == [[1, 2, 3]] * 3
    assert cluster.url(name) == place


def test_a_switch_over_loses_nothing(cluster: PostgresCluster, name: str) -> None:
    insert(cluster.primary, name, 1)
    old = cluster.primary
    successor = cluster.replicas[-1]
    assert cluster.switch_over(successor) is successor is cluster.primary
    insert(cluster.primary, name, 2)
    cluster.catch_up()
    assert old in cluster.replicas
    assert [ids(node, name) for node in cluster.nodes] == [[1, 2]] * 3


def test_roles_are_checked(cluster: PostgresCluster) -> None:
    with pytest.raises(UsageError, match="isn't its primary"):
        cluster.rejoin(cluster.primary)
    with pytest.raises(UsageError, match="doesn't follow"):
        cluster.hold_back(cluster.primary, 1)


def test_a_pair_has_one_standby_until_it_is_promoted() -> None:
    _find(PostgresServer)
    with PostgresPair() as pair:
        standby, old = pair.standby, pair.primary
        assert standby is not None
        old.kill()
        assert pair.promote() is standby
        assert pair.standby is None
        with pytest.raises(UsageError, match="no running replica"):
            pair.promote()
        pair.rejoin(old)
        assert pair.standby is old
