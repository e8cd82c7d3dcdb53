"""Which hosts are of one cluster, which are one server under two names, and which connections are no longer asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from prefiq_db.bridge import spawn
from prefiq_db.connectors.several_hosts import _Search
from prefiq_db.errors import SplitBrainError
from prefiq_db.testing import DatabaseServer, MariaDbCluster, MariaDbServer, PostgresPair, PostgresServer
from prefiq_db.testing.processes import wait_until
from tests.conftest import _find
from tests.twins.test_wrong_node import ONCE, QUICK, demoted, in_all_sessions, plain_url

PORT = {"postgresql": "select inet_server_port()", "mariadb": "select @@port"}
SIZE = 3


@pytest.fixture
def usual_fields() -> dict[str, Any]:
    """The settings of the databases that these tests open."""
    return {"retry": ONCE}


@pytest.fixture(scope="module")
def three() -> Iterator[tuple[DatabaseServer, ...]]:
    """Three MariaDB servers that know nothing of each other."""
    _find(MariaDbServer)
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(
                MariaDbServer(settings={"server_id": number, "log_bin": "on", "log_slave_updates": "on"})
            )
            for number in ("7", "8", "9")
        )


@pytest.fixture(params=[pytest.param(n, marks=getattr(pytest.mark, n)) for n in ("postgresql", "mariadb")])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    """Any server: ``localhost`` and ``127.0.0.1`` lead to it."""
    if request.param == "mariadb":
        servers: tuple[DatabaseServer, ...] = request.getfixturevalue("three")
        return servers[0]
    found: DatabaseServer = request.getfixturevalue("lone_postgresql")
    return found


@pytest.fixture(scope="module")
def lone_postgresql() -> Iterator[DatabaseServer]:
    _find(PostgresServer)
    with PostgresServer() as server:
        yield server


def hosts_of(url: str, *hosts: str) -> str:
    """Return *url* with other hosts."""
    login, rest = url.split("@", 1)
    return f"{login}@{','.join(hosts)}/{rest.split('/', 1)[1]}"


# --- one server under two names ------------------------------------------------------------------


@pytest.mark.parametrize("names", [("localhost", "127.0.0.1"), ("127.0.0.1", "localhost"), ("127.0.0.1", "127.0.0.1")])
async def test_one_server_under_two_names_is_no_second_primary(
    names: tuple[str, str], server: DatabaseServer, opened: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A service address beside the hosts, or a host said twice, is the same server: nothing is refused or told."""
    url = hosts_of(plain_url(server, database="named"), *(f"{name}:{server.port}" for name in names))
    db = opened(url)
    assert await db.fetch_value(PORT[server.name]) == server.port
    assert not [record for record in caplog.records if "both take writes" in record.getMessage()]


# --- servers of one cluster ----------------------------------------------------------------------


@pytest.mark.mariadb
async def test_two_replicas_of_a_third_server_that_were_both_promoted_are_refused(
    three: tuple[DatabaseServer, ...], opened: Callable[..., Any]
) -> None:
    """Neither has anything of the other; that both have transactions of the old primary shows the cluster."""
    _, first, second = three
    url = plain_url(first, second, database="siblings")
    for each in (first, second):
        each.execute("reset master")
        each.execute("set global gtid_slave_pos = '0-7-100'")
        each.execute("create table if not exists siblings.own (id integer)")
    try:
        with pytest.raises(SplitBrainError) as refused:
            await opened(url).execute("create table never (id integer)")
        assert set(refused.value.hosts) == {f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"}
        assert " 7" in str(refused.value)
    finally:
        for each in (first, second):
            each.execute("set global gtid_slave_pos = ''")
            each.execute("reset master")


@pytest.mark.mariadb
@pytest.mark.parametrize("order", ["replica_first", "primary_first"])
async def test_a_replica_with_a_named_connection_is_one(
    order: str, three: tuple[DatabaseServer, ...], opened: Callable[..., Any]
) -> None:
    """Of several sources each has a name; a replica that only has such ones follows as well."""
    primary, replica, _ = three
    url = plain_url(*((replica, primary) if order == "replica_first" else (primary, replica)), database="named_source")
    primary.execute("create user if not exists follower@'%' identified by 'x'")
    primary.execute("grant replication slave on *.* to follower@'%'")
    replica.execute(
        f"change master 'source' to master_host='127.0.0.1', master_port={primary.port}, master_user='follower',"
        " master_password='x', master_ssl_verify_server_cert=0, master_use_gtid=no,"
        f" master_log_file='{primary.execute('show master status')[0][0]}',"
        f" master_log_pos={primary.execute('show master status')[0][1]}"
    )
    replica.execute("start slave 'source'")
    try:
        assert wait_until(
            lambda: (
                replica.execute(
                    "select variable_value from information_schema.global_status where variable_name = 'SLAVES_RUNNING'"
                )[0][0]
                == "1"
            ),
            timeout_seconds=20,
        )
        primary.execute("create table if not exists named_source.t (id integer)")
        assert await opened(url).fetch_value(PORT["mariadb"]) == primary.port
    finally:
        replica.execute("stop slave 'source'")
        replica.execute("reset slave 'source' all")


@pytest.mark.mariadb
async def test_a_replica_of_the_dead_primary_is_none_beside_the_promoted_one(opened: Callable[..., Any]) -> None:
    """It still follows, although nobody answers it; so it is no second primary, with ``read_only`` or without."""
    _find(MariaDbServer)
    with MariaDbCluster(replicas=2) as cluster:
        name = cluster.create_database()
        cluster.catch_up()
        first, second = cluster.replicas
        cluster.primary.kill()
        first.execute("stop slave")
        for each in (first, second):
            each.execute("set global read_only = 0")
        first.execute(f"create table {name}.t (id integer)")
        for order in ((first, second), (second, first)):
            assert await opened(cluster.url(name, *order)).fetch_value(PORT["mariadb"]) == first.port


# --- what was left is asked nothing --------------------------------------------------------------


@pytest.mark.mariadb
async def test_connections_to_a_host_that_was_left_are_replaced_and_not_asked(
    three: tuple[DatabaseServer, ...], opened: Callable[..., Any]
) -> None:
    """When one call has found that a host is silent, no other call waits for it."""
    first, second, _ = three
    url = plain_url(first, second, database="left_behind")
    db = opened(url, pool_size=SIZE, max_overflow=0, ask_role_after_seconds=0, connect_timeout_seconds=4, retry=QUICK)
    with demoted(second):
        await db.open()
        assert await in_all_sessions(db, PORT["mariadb"]) == {first.port}
    first.freeze()
    try:
        assert await db.fetch_value(PORT["mariadb"]) == second.port
        assert await in_all_sessions(db, PORT["mariadb"]) == {second.port}
        assert db.stats().pool.lost["no answer"] == 1
    finally:
        first.thaw()


# --- a doubt during the search -------------------------------------------------------------------


@pytest.mark.postgresql
async def test_a_doubt_during_a_search_is_not_forgotten(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens after a host was asked isn't in its answer, so the search that is under way ends no doubt."""
    _find(PostgresServer)
    with PostgresPair(synchronous=False) as pair:
        name = pair.create_database()
        assert pair.standby is not None
        standby = pair.standby
        assert wait_until(
            lambda: standby.execute(f"select 1 from pg_database where datname = '{name}'"), timeout_seconds=10
        )
        db = opened(pair.url(name), pool_size=2, max_overflow=0)
        engine = getattr(db.engine, "sync_engine", db.engine)
        asks, promoted = _Search._ask, []

        def answered(self: Any, host: Any, deadline: Any) -> Any:
            answer = asks(self, host, deadline)
            if not promoted:
                promoted.append(pair.promote())
                engine.dialect.connector.doubt()  # as the pool does when another caller loses a connection
            return answer

        monkeypatch.setattr(_Search, "_ask", answered)
        assert await db.fetch_value("select 1") == 1
        assert promoted

        def another() -> None:
            held = engine.raw_connection()
            try:
                with pytest.raises(SplitBrainError):
                    engine.raw_connection()
            finally:
                held.close()

        await spawn(another) if db.is_async else another()


@pytest.mark.postgresql
async def test_a_database_that_is_opened_again_asks_all_hosts_again(opened: Callable[..., Any]) -> None:
    """What was known when it was closed may be hours old."""
    _find(PostgresServer)
    with PostgresPair(synchronous=False) as pair:
        name = pair.create_database()
        db = opened(pair.url(name))
        await db.open()
        await db.close()
        assert pair.standby is not None
        pair.promote()
        with pytest.raises(SplitBrainError):
            await db.open()


@pytest.mark.postgresql
async def test_the_word_for_a_primary_refuses_two_as_well(opened: Callable[..., Any]) -> None:
    """``target_session_attrs=primary`` is libpq's; that there may be only one is ours."""
    _find(PostgresServer)
    with PostgresPair(synchronous=False) as pair:
        name = pair.create_database()
        url, old = pair.url(name) + "?target_session_attrs=primary", pair.primary
        with demoted(old):
            assert await opened(url).fetch_value(PORT["postgresql"]) == old.port, "read-only by default, and no standby"
        pair.promote()
        with pytest.raises(SplitBrainError):
            await opened(url).execute("create table never (id integer)")


@pytest.mark.postgresql
async def test_connections_to_a_demoted_host_do_not_empty_the_pool_again(opened: Callable[..., Any]) -> None:
    """The first that learns of the demotion speaks for all; those to the new primary stay."""
    _find(PostgresServer)
    with PostgresPair(synchronous=False) as pair:
        name = pair.create_database()
        old, new = pair.primary, pair.standby
        assert new is not None
        db = opened(pair.url(name), pool_size=SIZE, max_overflow=0)
        await db.open()
        with demoted(old):
            assert await in_all_sessions(db, "show default_transaction_read_only") == {"on"}
            pair.promote()
            found = {await db.fetch_value("select pg_backend_pid()") for _ in range(4 * SIZE)}
            assert len(found) == SIZE
            assert await in_all_sessions(db, PORT["postgresql"]) == {new.port}
            assert await in_all_sessions(db, "select pg_backend_pid()") == found
            assert db.stats().pool.lost["server demoted"] == 1
