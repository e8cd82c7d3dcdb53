"""Of several hosts the primary is found by asking; two primaries of one cluster are refused, and a demoted one left."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from prefiq_db.errors import ErrorKind, NotReadyError, SplitBrainError
from prefiq_db.testing import DatabaseServer, MariaDbCluster, MariaDbServer, PostgresPair, PostgresServer
from prefiq_db.testing.processes import wait_until
from tests.conftest import _find
from tests.twins.test_wrong_node import ONCE, QUICK, demoted, in_all_sessions, plain_url

PORT = {"postgresql": "select inet_server_port()", "mariadb": "select @@port"}


@pytest.fixture
def usual_fields() -> dict[str, Any]:
    """The settings of the databases that these tests open."""
    return {"retry": ONCE}


@pytest.fixture(scope="module")
def pair_that_split() -> Iterator[tuple[PostgresServer, PostgresServer, str, str]]:
    """A primary, and its standby that was promoted although the primary lives; a database; its URL without hosts."""
    _find(PostgresServer)
    with PostgresPair(synchronous=False) as pair:
        name = pair.create_database()
        old, new = pair.primary, pair.standby
        assert new is not None
        assert wait_until(
            lambda: new.execute(f"select 1 from pg_database where datname = '{name}'"), timeout_seconds=10
        )
        pair.promote()
        yield old, new, name, pair.url(name)


@pytest.fixture(scope="module")
def mariadb_that_split() -> Iterator[tuple[DatabaseServer, DatabaseServer, str]]:
    """Two servers that both take writes; the second has transactions of the first."""
    _find(MariaDbServer)
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                MariaDbServer(settings={"server_id": number, "log_bin": "on", "log_slave_updates": "on"})
            )
            for number in ("7", "8")
        )
        url = plain_url(first, second, database="split")
        second.execute("reset master")
        second.execute("set global gtid_slave_pos = '0-7-100'")
        yield first, second, url


# --- two primaries -------------------------------------------------------------------------------


@pytest.mark.postgresql
@pytest.mark.parametrize("order", ["old_first", "new_first"])
async def test_two_primaries_of_one_postgresql_cluster_are_refused(
    order: str, pair_that_split: tuple[PostgresServer, PostgresServer, str, str], opened: Callable[..., Any]
) -> None:
    """Neither is chosen by chance: the error names both hosts and their timelines, and nothing is written."""
    old, new, name, url = pair_that_split
    if order == "new_first":
        hosts = f"{old.host}:{old.port},{new.host}:{new.port}"
        assert hosts in url
        url = url.replace(hosts, f"{new.host}:{new.port},{old.host}:{old.port}")
    db = opened(url, retry=QUICK)
    with pytest.raises(SplitBrainError) as refused:
        await db.execute("create table never (id integer)")
    error = refused.value
    assert {f"127.0.0.1:{old.port}", f"127.0.0.1:{new.port}"} == set(error.hosts)
    assert all(host in str(error) for host in error.hosts)
    assert "timelines" in str(error)
    assert error.is_transient
    assert error.kind is ErrorKind.NOT_READY
    assert db.stats().pool.checked_out == 0
    for server in (old, new):
        assert not server.execute("select 1 from pg_class where relname = 'never'", name)
    reader = opened(url + "?target_session_attrs=any")
    assert await reader.fetch_value("select 1") == 1


@pytest.mark.postgresql
async def test_write_to_any_is_told_that_both_are_meant(
    pair_that_split: tuple[PostgresServer, PostgresServer, str, str], opened: Callable[..., Any]
) -> None:
    """``write_to=any`` says that several hosts may be written, so nothing is refused, and connections are spread."""
    old, new, _, url = pair_that_split
    db = opened(url, write_to="any", pool_size=4)
    await db.open()
    assert await in_all_sessions(db, PORT["postgresql"], 4) == {old.port, new.port}


@pytest.mark.postgresql
async def test_when_the_wrong_one_is_gone_work_goes_on(
    opened: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal holds as long as there are two; no restart is needed. A log line names the new host, once."""
    _find(PostgresServer)
    with PostgresPair(synchronous=False) as pair:
        name = pair.create_database()
        old, new = pair.primary, pair.standby
        assert new is not None
        assert wait_until(
            lambda: new.execute(f"select 1 from pg_database where datname = '{name}'"), timeout_seconds=10
        )
        db = opened(pair.url(name), pool_size=1, max_overflow=0)
        assert await db.fetch_value(PORT["postgresql"]) == old.port
        pair.promote()
        # Who is connected stays, and doesn't look; whoever comes anew does.
        assert await db.fetch_value(PORT["postgresql"]) == old.port
        with pytest.raises(SplitBrainError):
            await opened(pair.url(name)).fetch_value("select 1")
        # A lost connection is followed by a look, too.
        mine = "from pg_stat_activity where application_name = 'prefiq_db'"
        old.execute(f"select pg_terminate_backend(pid) {mine}")
        assert wait_until(lambda: not old.execute(f"select 1 {mine}"), timeout_seconds=10)
        with pytest.raises(SplitBrainError):
            await db.fetch_value("select 1")
        old.stop()
        moved = f"connections lead to 127.0.0.1:{new.port} from now on; they led to 127.0.0.1:{old.port}"
        assert moved not in caplog.messages
        for _ in range(2):
            assert await db.fetch_value(PORT["postgresql"]) == new.port
        assert caplog.messages.count(moved) == 1


@pytest.mark.mariadb
async def test_two_primaries_of_one_mariadb_replication_are_refused(
    mariadb_that_split: tuple[DatabaseServer, DatabaseServer, str], opened: Callable[..., Any]
) -> None:
    """Transactions of the other one show that it is one cluster; with ``read_only`` on one of them all is well."""
    first, second, url = mariadb_that_split
    db = opened(url)
    ahead, behind = f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"
    assert f"{ahead},{behind}" in url
    for each in (db, opened(url.replace(f"{ahead},{behind}", f"{behind},{ahead}"))):
        with pytest.raises(SplitBrainError) as refused:
            await each.execute("create table never (id integer)")
        assert set(refused.value.hosts) == {ahead, behind}
        assert re.search("7 and 8|8 and 7", str(refused.value))
    with demoted(first):
        assert await db.fetch_value(PORT["mariadb"]) == second.port
    anew = opened(url)
    with demoted(second):
        assert await anew.fetch_value(PORT["mariadb"]) == first.port


@pytest.mark.mariadb
async def test_control_strangers_are_told_and_not_refused(
    mariadb_that_split: tuple[DatabaseServer, DatabaseServer, str],
    opened: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two servers that share nothing are no split cluster: the first is used, and one warning names both."""
    first, second, url = mariadb_that_split
    position = second.execute("select @@global.gtid_slave_pos")[0][0]
    second.execute("set global gtid_slave_pos = ''")
    try:
        db = opened(url, pool_size=2)
        await db.open()
        assert await in_all_sessions(db, PORT["mariadb"], 2) == {first.port}
    finally:
        second.execute(f"set global gtid_slave_pos = '{position}'")
    told = [record.getMessage() for record in caplog.records if "both take writes" in record.getMessage()]
    assert len(told) == 1
    assert f":{first.port}" in told[0]
    assert f":{second.port}" in told[0]


@pytest.mark.postgresql
async def test_a_host_that_is_silent_takes_no_part(
    pair_that_split: tuple[PostgresServer, PostgresServer, str, str], opened: Callable[..., Any]
) -> None:
    """Who can't be asked is no second primary: the other works, and the time for connecting holds."""
    old, new, _, url = pair_that_split
    new.freeze()
    try:
        db = opened(url, connect_timeout_seconds=4)
        assert await db.fetch_value(PORT["postgresql"]) == old.port
    finally:
        new.thaw()


@pytest.mark.mariadb
async def test_a_replica_that_takes_writes_is_passed_while_it_follows(opened: Callable[..., Any]) -> None:
    """Without ``read_only`` a replica looks like a primary; that it replicates shows which of the two it is."""
    _find(MariaDbServer)
    with MariaDbCluster(replicas=1) as cluster:
        name = cluster.create_database()
        cluster.catch_up()
        (replica,) = cluster.replicas
        replica.execute("set global read_only = 0")
        for order in ((replica, cluster.primary), (cluster.primary, replica)):
            db = opened(cluster.url(name, *order))
            assert await db.fetch_value(PORT["mariadb"]) == cluster.primary.port


# --- a demoted primary ---------------------------------------------------------------------------


@pytest.mark.mariadb
async def test_a_demoted_mariadb_is_left_by_readers(
    mariadb_that_split: tuple[DatabaseServer, DatabaseServer, str], opened: Callable[..., Any]
) -> None:
    """Reads alone never see error 1290: the server is asked after ``ask_role_after_seconds``, and the pool moves on."""
    first, second, url = mariadb_that_split
    with demoted(second):
        db = opened(url, pool_size=2, max_overflow=0, ask_role_after_seconds=0)
        await db.open()
        assert await in_all_sessions(db, PORT["mariadb"], 2) == {first.port}
    with demoted(first):
        assert await db.fetch_value(PORT["mariadb"]) == second.port
        assert await in_all_sessions(db, PORT["mariadb"], 2) == {second.port}
        left = db.stats().pool.lost["server demoted"]
        assert 1 <= left <= 2, "once for each connection at most"
        for _ in range(3):
            assert await db.fetch_value(PORT["mariadb"]) == second.port
        assert db.stats().pool.lost["server demoted"] == left


@pytest.mark.mariadb
async def test_control_until_then_reads_are_of_the_demoted_one(
    mariadb_that_split: tuple[DatabaseServer, DatabaseServer, str], opened: Callable[..., Any]
) -> None:
    """What can't be promised without a round trip: a pooled connection goes on reading until its server is asked."""
    first, second, url = mariadb_that_split
    with demoted(second):
        db = opened(url, pool_size=1, max_overflow=0, ask_role_after_seconds=3600)
        await db.open()
    with demoted(first):
        assert await db.fetch_value(PORT["mariadb"]) == first.port
        # The first write finds out for everybody.
        await opened(url, retry=QUICK).execute("create table if not exists t (id integer)")
        await db.using(retry=QUICK).execute("insert into t values (1)")
        assert await db.fetch_value(PORT["mariadb"]) == second.port


@pytest.mark.postgresql
async def test_postgresql_says_by_itself_that_it_takes_no_writes(opened: Callable[..., Any]) -> None:
    """A primary that is made read-only while connections live reports that with its next reply; no question is sent."""
    _find(PostgresServer)
    with PostgresPair(synchronous=False) as pair:
        name = pair.create_database()
        old, new = pair.primary, pair.standby
        assert new is not None
        db = opened(pair.url(name), pool_size=1, max_overflow=0)
        assert await db.fetch_value(PORT["postgresql"]) == old.port
        with demoted(old):
            assert wait_until(
                lambda: new.execute(f"select 1 from pg_database where datname = '{name}'"), timeout_seconds=10
            )
            pair.promote()
            # The reply to this read carries the news, at the latest the next one's.
            assert await _reads_from(db, new.port)
        assert db.stats().pool.lost["server demoted"] == 1


async def _reads_from(db: Any, port: int) -> bool:
    for _ in range(200):
        if await db.fetch_value(PORT["postgresql"]) == port:
            return True
    return False


# --- one host is asked nothing -------------------------------------------------------------------


@pytest.mark.mariadb
async def test_one_host_is_never_asked_for_its_role(
    mariadb_that_split: tuple[DatabaseServer, DatabaseServer, str], opened: Callable[..., Any]
) -> None:
    """With a single host there is nowhere else to go, so no statement is added."""
    first, _, _ = mariadb_that_split
    db = opened(plain_url(first, database="split"), pool_size=1, max_overflow=0, ask_role_after_seconds=0)
    before = int(await db.fetch_value("select variable_value from information_schema.session_status "
                                      "where variable_name = 'QUESTIONS'"))  # fmt: skip
    await db.fetch_value("select 1")
    after = int(await db.fetch_value("select variable_value from information_schema.session_status "
                                     "where variable_name = 'QUESTIONS'"))  # fmt: skip
    assert after - before == 2


def test_a_refusal_survives_a_pickle() -> None:
    """Both hosts are told in another process, too."""
    import pickle

    error = SplitBrainError("two", hosts=("a:1", "b:2"))
    found = pickle.loads(pickle.dumps(error))
    assert isinstance(found, NotReadyError)
    assert found.hosts == ("a:1", "b:2")
