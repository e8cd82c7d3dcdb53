"""Our own clusters of PostgreSQL and MariaDB: replicas follow, lag, take over; an old primary rejoins."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pymysql
import pytest
from sqlalchemy import make_url

from prefiq_db.errors import UsageError
from prefiq_db.testing import MariaDbCluster, MariaDbServer, PostgresCluster, PostgresPair, PostgresServer
from prefiq_db.testing.processes import wait_until
from tests.conftest import _find

Cluster = PostgresCluster | MariaDbCluster


@dataclass(frozen=True)
class Kind:
    """A database with clusters.

    Attributes:
        primary_says: what a server answers that takes itself for the primary, and the question.
        write_alone: writes 99 into ``item`` of an old primary, whose COMMIT then waits for no replica.
    """

    server: Any
    cluster: Any
    primary_says: tuple[str, object]
    write_alone: tuple[str, ...]


KINDS = {
    "postgresql": Kind(
        PostgresServer,
        PostgresCluster,
        ("select pg_is_in_recovery()", False),
        ("set synchronous_commit = local; insert into item values (99)",),
    ),
    "mariadb": Kind(
        MariaDbServer,
        MariaDbCluster,
        ("select @@read_only", 0),
        ("set global rpl_semi_sync_master_enabled = 0", "insert into item values (99)"),
    ),
}
on_mariadb = pytest.mark.parametrize(
    "kind", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True, scope="module"
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def cluster(kind: Kind) -> Iterator[Cluster]:
    _find(kind.server)
    with kind.cluster(replicas=2) as made:
        yield made


@pytest.fixture
def name(cluster: Cluster) -> Iterator[str]:
    database = cluster.create_database()
    cluster.primary.execute("create table item (id integer primary key)", database)
    cluster.catch_up()
    yield database
    cluster.primary.drop_database(database)


def ids(server: Any, database: str) -> list[int]:
    return [number for (number,) in server.execute("select id from item order by id", database)]


def insert(server: Any, database: str, *numbers: int) -> None:
    for number in numbers:
        server.execute(f"insert into item values ({number})", database)


def connect_plain(url: str) -> pymysql.Connection[Any]:
    given = make_url(url)
    return pymysql.connect(
        host=given.host, port=given.port or 0, user=given.username, password=given.password or "",
        database=given.database, autocommit=True,
    )  # fmt: skip


def test_each_replica_has_what_was_written(kind: Kind, cluster: Cluster, name: str) -> None:
    insert(cluster.primary, name, 1, 2)
    cluster.catch_up()
    question, of_a_primary = kind.primary_says
    for replica in cluster.replicas:
        assert ids(replica, name) == [1, 2]
        assert replica.execute(question) != [(of_a_primary,)]
    assert cluster.primary.execute(question) == [(of_a_primary,)]


@pytest.mark.parametrize(
    "kind", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True, scope="module"
)
def test_a_replica_takes_no_writes(cluster: Cluster, name: str) -> None:
    for replica in cluster.replicas:
        with pytest.raises(Exception, match="read-only"):
            insert(replica, name, 3)


@on_mariadb
def test_a_replica_takes_no_writes_of_a_plain_user(cluster: Cluster, name: str) -> None:
    for replica in cluster.replicas:
        with connect_plain(cluster.url(name, replica)) as plain, plain.cursor() as cursor:
            with pytest.raises(pymysql.OperationalError, match="read-only") as refused:
                cursor.execute("insert into item values (3)")
            assert refused.value.args[0] == 1290
    with connect_plain(cluster.url(name, cluster.primary)) as plain, plain.cursor() as cursor:
        cursor.execute("insert into item values (3)")


@on_mariadb
def test_commit_waits_for_a_replica(cluster: Cluster, name: str) -> None:
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


def test_a_replica_held_back_is_behind_and_the_other_is_not(cluster: Cluster, name: str) -> None:
    late, timely = cluster.replicas
    cluster.hold_back(late, 3600)
    insert(cluster.primary, name, 1)
    assert wait_until(lambda: ids(timely, name) == [1], timeout_seconds=30)
    assert ids(late, name) == []
    cluster.hold_back(late, 0)
    cluster.catch_up()
    assert ids(late, name) == [1]


def test_a_replica_that_was_killed_or_frozen_catches_up(cluster: Cluster, name: str) -> None:
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


def test_after_a_failover_all_follow_the_new_primary(kind: Kind, cluster: Cluster, name: str) -> None:
    """Nothing confirmed is lost, the other replica follows, and so does the old primary, without what it alone has."""
    insert(cluster.primary, name, 1)
    old, place = cluster.primary, cluster.url(name)
    old.kill()
    promoted = cluster.promote()
    assert promoted is not old
    assert ids(promoted, name) == [1]
    insert(promoted, name, 2)
    old.start()
    question, of_a_primary = kind.primary_says
    assert old.execute(question) == [(of_a_primary,)], "it takes itself for the primary"
    for sql in kind.write_alone:
        old.execute(sql, name)
    cluster.rejoin(old)
    assert len(cluster.replicas) == 2
    insert(promoted, name, 3)
    cluster.catch_up()
    assert [ids(node, name) for node in cluster.nodes] == [[1, 2, 3]] * 3
    assert cluster.url(name) == place


def test_a_switch_over_loses_nothing(cluster: Cluster, name: str) -> None:
    insert(cluster.primary, name, 1)
    old = cluster.primary
    successor = cluster.replicas[-1]
    assert cluster.switch_over(successor) is successor is cluster.primary
    insert(cluster.primary, name, 2)
    cluster.catch_up()
    assert old in cluster.replicas
    assert [ids(node, name) for node in cluster.nodes] == [[1, 2]] * 3


def test_roles_are_checked(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="isn't its primary"):
        cluster.rejoin(cluster.primary)
    with pytest.raises(UsageError, match="doesn't follow"):
        cluster.hold_back(cluster.primary, 1)


@pytest.mark.postgresql
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
