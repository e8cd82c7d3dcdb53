"""A MariaDB cluster of our own: its replicas follow, are held back, take over, and an old primary rejoins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
from sqlalchemy import make_url

from prefiq_db.errors import UsageError
from prefiq_db.testing import MariaDbCluster, MariaDbServer
from prefiq_db.testing.processes import wait_until
from tests.conftest import _find

pytestmark = pytest.mark.mariadb


@pytest.fixture(scope="module")
def cluster() -> Iterator[MariaDbCluster]:
    _find(MariaDbServer)
    with MariaDbCluster(replicas=2) as made:
        yield made


@pytest.fixture
def name(cluster: MariaDbCluster) -> Iterator[str]:
    database = cluster.create_database()
    cluster.primary.execute("create table item (id integer primary key)", database)
    cluster.catch_up()
    yield database
    cluster.primary.drop_database(database)


def ids(server: MariaDbServer, database: str) -> list[int]:
    return [number for (number,) in server.execute("select id from item order by id", database)]


def connect(url: str) -> pymysql.Connection[Any]:
    given = make_url(url)
    return pymysql.connect(
        host=given.host, port=given.port or 0, user=given.username, password=given.password or "",
        database=given.database, autocommit=True,
    )  # fmt: skip


def insert(server: MariaDbServer, database: str, *numbers: int) -> None:
    for number in numbers:
        server.execute(f"insert into item values ({number})", database)


def test_each_replica_has_what_was_written_and_takes_no_writes_of_a_plain_user(
    cluster: MariaDbCluster, name: str
) -> None:
    insert(cluster.primary, name, 1, 2)
    cluster.catch_up()
    for replica in cluster.replicas:
        assert ids(replica, name) == [1, 2]
        with connect(cluster.url(name, replica)) as plain, plain.cursor() as cursor:
            with pytest.raises(pymysql.OperationalError, match="read-only") as refused:
                cursor.execute("insert into item values (3)")
            assert refused.value.args[0] == 1290
    with connect(cluster.url(name, cluster.primary)) as plain, plain.cursor() as cursor:
        cursor.execute("insert into item values (3)")


def test_commit_waits_for_a_replica(cluster: MariaDbCluster, name: str) -> None:
    """With none of them there it doesn't return, and the rows are nobody's until one is back."""
    for replica in cluster.replicas:
        replica.kill()
    worker = threading.Thread(target=insert, args=(cluster.primary, name, 1))
    worker.start()
    question = "select count(*) from information_schema.processlist where state like 'Waiting for semi-sync ACK%'"
    assert wait_until(lambda: cluster.primary.execute(question)[0][0] == 1, timeout_seconds=30)
    assert ids(cluster.primary, name) == []
    for replica in cluster.replicas:
        replica.start()
    worker.join(60)
    assert not worker.is_alive()
    assert ids(cluster.primary, name) == [1]


def test_a_replica_held_back_is_behind_and_the_other_is_not(cluster: MariaDbCluster, name: str) -> None:
    late, timely = cluster.replicas
    cluster.hold_back(late, 3600)
    insert(cluster.primary, name, 1)
    assert wait_until(lambda: ids(timely, name) == [1], timeout_seconds=30)
    assert ids(late, name) == []
    cluster.hold_back(late, 0)
    cluster.catch_up()
    assert ids(late, name) == [1]


def test_a_replica_that_was_killed_or_frozen_catches_up(cluster: MariaDbCluster, name: str) -> None:
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


def test_after_a_failover_all_follow_the_new_primary(cluster: MariaDbCluster, name: str) -> None:
    """Nothing confirmed is lost, the other replica follows, and so does the old primary, without what it alone has."""
    insert(cluster.primary, name, 1)
    old, place = cluster.primary, cluster.url(name)
    old.kill()
    promoted = cluster.promote()
    assert promoted is not old
    assert ids(promoted, name) == [1]
    insert(promoted, name, 2)
    old.start()
    assert old.execute("select @@read_only") == [(0,)], "it takes itself for the primary"
    old.execute("set global rpl_semi_sync_master_enabled = 0")
    insert(old, name, 99)
    cluster.rejoin(old)
    assert len(cluster.replicas) == 2
    insert(promoted, name, 3)
    cluster.catch_up()
    assert [ids(node, name) for node in cluster.nodes] == [[1, 2, 3]] * 3
    assert cluster.url(name) == place


def test_a_switch_over_loses_nothing(cluster: MariaDbCluster, name: str) -> None:
    insert(cluster.primary, name, 1)
    old = cluster.primary
    successor = cluster.replicas[-1]
    assert cluster.switch_over(successor) is successor is cluster.primary
    insert(cluster.primary, name, 2)
    cluster.catch_up()
    assert old in cluster.replicas
    assert [ids(node, name) for node in cluster.nodes] == [[1, 2]] * 3


def test_roles_are_checked(cluster: MariaDbCluster) -> None:
    with pytest.raises(UsageError, match="isn't its primary"):
        cluster.rejoin(cluster.primary)
    with pytest.raises(UsageError, match="doesn't follow"):
        cluster.hold_back(cluster.primary, 1)
