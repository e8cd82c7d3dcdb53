"""A server that is no good for the work empties the pool, and the next attempt finds one that is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from prefiq_db import RetryPolicy, with_retry_async
from prefiq_db.bridge import spawn
from prefiq_db.dialects.disconnects import JudgingDialect
from prefiq_db.errors import (
    AuthenticationError,
    AvailabilityError,
    ConnectFailedError,
    ErrorKind,
    NotReadyError,
    ReadOnlyError,
)
from prefiq_db.events import AttemptFailed, Listener
from prefiq_db.testing import DatabaseServer, GaleraCluster, MariaDbServer, templates
from tests.clusters import find as find_cluster
from tests.conftest import Backend, _find
from tests.twins.harness import drive

QUICK = RetryPolicy(wait_initial_seconds=0.001, wait_max_seconds=0.002)
ONCE = RetryPolicy(attempts=1)
SIZE = 3

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
_SESSION = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}
# What a demotion leaves behind in a pooled connection: its server refuses writes, a new connection's doesn't.
_DEMOTE_SESSION = {
    "postgresql": "set default_transaction_read_only = on",
    "mariadb": "set session transaction read only",
}


class Failures(Listener):
    def __init__(self) -> None:
        self.kinds: list[ErrorKind | None] = []

    def attempt_failed(self, event: AttemptFailed) -> None:
        self.kinds.append(event.kind)


async def in_all_sessions(db: Any, sql: str, count: int = SIZE) -> set[Any]:
    """Run *sql* on *count* pooled connections, past everything of ours; return the first values."""
    engine = getattr(db.engine, "sync_engine", db.engine)

    def work() -> set[Any]:
        held: list[Any] = []
        found = set()
        try:
            for _ in range(count):
                held.append(engine.raw_connection())
            for connection in held:
                cursor = connection.cursor()
                cursor.execute(sql)
                found.add(cursor.fetchone()[0] if cursor.description else None)
                cursor.close()
                connection.commit()
        finally:
            for connection in held:
                connection.close()
        return found

    return await spawn(work) if db.is_async else work()


@pytest.fixture
def stock(make_db: Callable[..., Any], world: str, loop_runner: asyncio.Runner) -> Any:
    """A database whose pool is full."""
    run = loop_runner.run if world == "async" else drive
    db = make_db(pool_size=SIZE, max_overflow=0, retry=QUICK)
    run(db.open())
    run(db.execute("create table stock (id integer primary key, quantity integer not null)"))
    run(db.execute("insert into stock (id, quantity) values (1, 0)"))
    return db


async def once_more(executor: Any) -> None:
    await executor.execute("update stock set quantity = quantity + 1 where id = 1")


async def quantity(db: Any) -> int:
    return int(await db.fetch_value("select quantity from stock where id = 1"))


# --- one error empties the pool ------------------------------------------------------------------


@on_servers
@pytest.mark.parametrize("way", ["one_shot", "run_in_transaction", "execute_many"])
async def test_a_read_only_server_empties_the_pool(stock: Any, backend: Backend, way: str) -> None:
    """The first write finds out, is repeated on a new connection with one effect, and no other call pays."""
    failures = stock.hooks.add(Failures())
    before = await in_all_sessions(stock, _SESSION[backend.name])
    await in_all_sessions(stock, _DEMOTE_SESSION[backend.name])
    if way == "one_shot":
        await once_more(stock)
    elif way == "run_in_transaction":
        await stock.run_in_transaction(once_more)
    else:
        await stock.execute_many("update stock set quantity = quantity + :by where id = 1", [{"by": 1}])
    assert failures.kinds == [ErrorKind.READ_ONLY]
    after = await in_all_sessions(stock, _SESSION[backend.name])
    assert len(before) == len(after) == SIZE
    assert not before & after, "no connection of the demoted server is handed out again"
    for _ in range(2 * SIZE):
        await once_more(stock)
    assert failures.kinds == [ErrorKind.READ_ONLY]
    assert await quantity(stock) == 1 + 2 * SIZE


@on_servers
async def test_control_without_it_every_pooled_connection_costs_a_call(
    stock: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SQLAlchemy's own judgement, the bad connections stay in the pool and fail again and again."""
    monkeypatch.setattr(
        JudgingDialect, "is_disconnect", lambda self, e, connection, cursor: super(JudgingDialect, self).is_disconnect(
            e, connection, cursor
        )
    )  # fmt: skip
    before = await in_all_sessions(stock, _SESSION[backend.name])
    await in_all_sessions(stock, _DEMOTE_SESSION[backend.name])
    for _ in range(2 * SIZE):
        with pytest.raises(ReadOnlyError):
            await once_more(stock)
    assert await in_all_sessions(stock, _SESSION[backend.name]) == before


async def test_our_own_read_only_refusal_is_no_failover(stock: Any, backend: Backend) -> None:
    """What READ ONLY of ours refused, every server would: nothing is repeated, and the pool keeps its connections."""
    failures = stock.hooks.add(Failures())
    sessions = None if backend.name == "sqlite" else await in_all_sessions(stock, _SESSION[backend.name])
    lost = stock.stats().pool

    with pytest.raises(ReadOnlyError) as one_shot:
        await stock.using(read_only=True).execute("update stock set quantity = quantity + 1 where id = 1")
    with pytest.raises(ReadOnlyError) as in_block:
        async with stock.transaction(read_only=True) as tx:
            await once_more(tx)
    calls = []

    async def body(tx: Any) -> None:
        calls.append(1)
        await once_more(tx)

    with pytest.raises(ReadOnlyError) as whole:
        await stock.using(read_only=True).run_in_transaction(body)
    with pytest.raises(ReadOnlyError) as outside:

        @with_retry_async(policy=QUICK)
        async def work() -> None:
            async with stock.transaction(read_only=True) as tx:
                await body(tx)

        await work()
    for error in (one_shot, in_block, whole, outside):
        assert not error.value.is_transient
        assert error.value.__context__ is None
    assert len(calls) == 2
    assert failures.kinds == []
    assert stock.stats().pool.lost == lost.lost
    if sessions is not None:
        assert await in_all_sessions(stock, _SESSION[backend.name]) == sessions
    assert await quantity(stock) == 0


# --- a server that is demoted and promoted again -------------------------------------------------


@pytest.fixture(scope="module")
def lone_postgresql(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    yield from _lone(request, "postgresql")


@pytest.fixture(scope="module")
def lone_mariadb(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    yield from _lone(request, "mariadb")


def _lone(request: pytest.FixtureRequest, name: str) -> Iterator[DatabaseServer]:
    """Start a server of this file's own, for settings that nobody else may see."""
    from prefiq_db.testing.servers import SERVERS

    _find(SERVERS[name])
    server = SERVERS[name]()
    # Not from the template of this process: copies of it are servers of one cluster, of which one may take writes.
    with patch.dict(templates._made, clear=True):
        server.start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(params=[pytest.param(n, marks=getattr(pytest.mark, n)) for n in ("postgresql", "mariadb")])
def server(request: pytest.FixtureRequest) -> DatabaseServer:
    found: DatabaseServer = request.getfixturevalue(f"lone_{request.param}")
    return found


@contextmanager
def demoted(server: DatabaseServer) -> Iterator[None]:
    """Make the server refuse writes, to connections that exist as well."""
    if server.name == "postgresql":
        switch = (
            "alter system set default_transaction_read_only = on",
            "alter system reset default_transaction_read_only",
        )
        for_all = "select pg_reload_conf()"
    else:
        switch, for_all = ("set global read_only = 1", "set global read_only = 0"), "do 0"
    server.execute(switch[0])
    server.execute(for_all)
    _await_demotion(server, "on")
    try:
        yield
    finally:
        server.execute(switch[1])
        server.execute(for_all)
        _await_demotion(server, "off")


def _await_demotion(server: DatabaseServer, wanted: str) -> None:
    from prefiq_db.testing.processes import wait_until

    # The postmaster reads the file again when it gets round to it.
    question = {
        "postgresql": "show default_transaction_read_only",
        "mariadb": "select if(@@global.read_only, 'on', 'off')",
    }
    assert wait_until(lambda: server.execute(question[server.name])[0][0] == wanted, timeout_seconds=10)


def plain_url(server: DatabaseServer, *others: DatabaseServer, database: str, options: str = "") -> str:
    """Return a URL of one or several servers, as a user whom ``read_only`` binds; the same database on all."""
    for each in (server, *others):
        if each.name == "postgresql":
            each.execute(
                "do $$ begin if not exists (select from pg_roles where rolname = 'plain') then "
                "create role plain login password 'x'; end if; end $$"
            )
            if not each.execute(f"select 1 from pg_database where datname = '{database}'"):
                each.execute(f"create database {database} owner plain")
        else:
            each.execute("create user if not exists plain@'%' identified by 'x'")
            each.execute(f"create database if not exists {database}")
            each.execute(f"grant all on {database}.* to plain@'%'")
    places = ",".join(f"{each.host}:{each.port}" for each in (server, *others))
    return f"{server.name}://plain:x@{places}/{database}{options}"


async def test_a_server_made_read_only_and_writable_again(server: DatabaseServer, opened: Callable[..., Any]) -> None:
    """While it is read-only each write says so, typed and transient; afterwards work goes on without a rebuild."""
    db = opened(plain_url(server, database="lone"), pool_size=SIZE, max_overflow=0, retry=QUICK)
    await db.open()
    await db.execute("drop table if exists stock")
    await db.execute("create table stock (id integer primary key, quantity integer not null)")
    await db.execute("insert into stock (id, quantity) values (1, 0)")
    before = await in_all_sessions(db, _SESSION[server.name])
    failures = db.hooks.add(Failures())
    with demoted(server):
        with pytest.raises(ReadOnlyError) as one_shot:
            await once_more(db)
        with pytest.raises(ReadOnlyError) as whole:
            await db.run_in_transaction(once_more)
        assert one_shot.value.is_transient
        assert whole.value.is_transient
        assert await quantity(db) == 0, "reads go on"
    assert set(failures.kinds) == {ErrorKind.READ_ONLY}
    assert len(failures.kinds) == 2 * (QUICK.attempts - 1)
    await once_more(db)
    await db.run_in_transaction(once_more)
    assert await quantity(db) == 2
    assert not before & await in_all_sessions(db, _SESSION[server.name])
    assert db.stats().pool.checked_out == 0


async def test_a_write_that_waits_for_the_writer_succeeds(server: DatabaseServer, opened: Callable[..., Any]) -> None:
    """A failover that ends within the retries costs no failed call."""
    db = opened(plain_url(server, database="lone"), retry=RetryPolicy(attempts=50, wait_initial_seconds=0.2))
    await db.execute("drop table if exists stock")
    await db.execute("create table stock (id integer primary key, quantity integer not null)")
    await db.execute("insert into stock (id, quantity) values (1, 0)")

    with demoted(server):
        ends = []

        class Ends(Listener):
            def attempt_failed(self, event: AttemptFailed) -> None:
                if not ends:
                    switch = {"postgresql": "alter system reset default_transaction_read_only",
                              "mariadb": "set global read_only = 0"}  # fmt: skip
                    server.execute(switch[server.name])
                    server.execute({"postgresql": "select pg_reload_conf()", "mariadb": "do 0"}[server.name])
                ends.append(event.kind)

        db.hooks.add(Ends())
        await once_more(db)
        assert set(ends) == {ErrorKind.READ_ONLY}
    assert await quantity(db) == 1


# --- several hosts -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_postgresql(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    yield from _lone(request, "postgresql")


@pytest.fixture(scope="module")
def other_mariadb(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    yield from _lone(request, "mariadb")


@pytest.fixture
def other(server: DatabaseServer, request: pytest.FixtureRequest) -> DatabaseServer:
    found: DatabaseServer = request.getfixturevalue(f"other_{server.name}")
    return found


_PORT = {"postgresql": "select inet_server_port()", "mariadb": "select @@port"}


async def test_of_several_hosts_the_writer_is_found(
    server: DatabaseServer, other: DatabaseServer, opened: Callable[..., Any]
) -> None:
    """The first host that takes writes is the one to stay with; when all are read-only, the error says that."""
    url = plain_url(server, other, database="several")
    port = _PORT[server.name]
    assert await opened(url).fetch_value(port) == server.port
    with demoted(server):
        assert await opened(url).fetch_value(port) == other.port
        assert await opened(url + "?target_session_attrs=any").fetch_value(port) == server.port
        reader = opened(url + "?target_session_attrs=read-only")
        assert await reader.fetch_value(port) == server.port
        with demoted(other):
            lost = opened(url, retry=ONCE)
            with pytest.raises(ReadOnlyError) as none:
                await lost.fetch_value("select 1")
            assert none.value.is_transient
            assert none.value.__context__ is None
            assert (lost.stats().pool.idle, lost.stats().pool.checked_out) == (0, 0)
        assert await lost.fetch_value(port) == other.port
    readers = opened(url + "?target_session_attrs=read-only", retry=ONCE)
    with pytest.raises(AvailabilityError) as no_reader:
        await readers.fetch_value("select 1")
    assert no_reader.value.is_transient


async def test_one_host_is_asked_nothing(server: DatabaseServer, opened: Callable[..., Any]) -> None:
    """With a single host there is nowhere else to go: a read-only server serves reads."""
    url = plain_url(server, database="several")  # makes the database, while that may be written
    with demoted(server):
        assert await opened(url, retry=ONCE).fetch_value("select 1") == 1


async def test_a_pooled_connection_to_a_demoted_host_moves_on(
    server: DatabaseServer, other: DatabaseServer, opened: Callable[..., Any]
) -> None:
    """The first write after the demotion is repeated on the other host; every further one goes there at once."""
    url = plain_url(server, other, database="several")
    for each in (server, other):
        setup = opened(plain_url(each, database="several"))
        await setup.execute("drop table if exists stock")
        await setup.execute("create table stock (id integer primary key, quantity integer not null)")
        await setup.execute("insert into stock (id, quantity) values (1, 0)")
    db = opened(url, pool_size=SIZE, max_overflow=0, retry=QUICK)
    await db.open()
    assert await in_all_sessions(db, _PORT[server.name]) == {server.port}
    failures = db.hooks.add(Failures())
    with demoted(server):
        for _ in range(2 * SIZE):
            await db.run_in_transaction(once_more)
        assert failures.kinds == [ErrorKind.READ_ONLY]
        assert await in_all_sessions(db, _PORT[server.name]) == {other.port}
        assert await quantity(db) == 2 * SIZE
    await db.run_in_transaction(once_more)
    assert await in_all_sessions(db, _PORT[server.name]) == {other.port}, "nothing pulls it back"


def only_there(server: DatabaseServer, other: DatabaseServer) -> str:
    """Return a URL of both for a user whom *other* doesn't know."""
    url = plain_url(server, other, database="several")
    if server.name == "postgresql":
        server.execute(
            "do $$ begin if not exists (select from pg_roles where rolname = 'local') then "
            "create role local login password 'x'; end if; end $$"
        )
    else:
        server.execute("create user if not exists local@'%' identified by 'x'")
        server.execute("grant all on several.* to local@'%'")
    return url.replace("plain:x@", "local:x@")


def turned(url: str) -> str:
    """Return *url* with its two hosts in the other order."""
    login, rest = url.split("@")
    hosts, database = rest.split("/")
    return f"{login}@{','.join(reversed(hosts.split(',')))}/{database}"


async def test_a_host_that_refuses_the_login_hides_no_other(
    server: DatabaseServer, other: DatabaseServer, opened: Callable[..., Any]
) -> None:
    """The primary is found behind it; when none is, the error names the host that refused: it may be the primary."""
    url = only_there(server, other)
    for each in (url, turned(url)):
        assert await opened(each).fetch_value(_PORT[server.name]) == server.port
        with demoted(server), pytest.raises(ReadOnlyError) as none:
            await opened(each, retry=ONCE).fetch_value("select 1")
        assert none.value.is_transient
        assert f"{other.host}:{other.port} (authentication)" in str(none.value)


async def test_a_refused_login_ends_no_retries_while_another_host_is_away(
    server: DatabaseServer, other: DatabaseServer, opened: Callable[..., Any]
) -> None:
    """A host that was set up anew knows no users; the primary, which restarts, does."""
    url = only_there(server, other)
    server.kill()
    try:
        with pytest.raises(ConnectFailedError) as none:
            await opened(url, retry=ONCE).fetch_value("select 1")
        assert none.value.is_transient
        assert f"{server.host}:{server.port} (connect_failed)" in str(none.value)
        assert f"{other.host}:{other.port} (authentication)" in str(none.value)

        class Restarts(Listener):
            def attempt_failed(self, event: AttemptFailed) -> None:
                if not server.running:
                    server.start()

        db = opened(url, retry=RetryPolicy(attempts=50, wait_initial_seconds=0.2))
        db.hooks.add(Restarts())
        assert await db.fetch_value(_PORT[server.name]) == server.port
    finally:
        if not server.running:
            server.start()


async def test_a_login_that_every_host_refuses_is_refused(
    server: DatabaseServer, other: DatabaseServer, opened: Callable[..., Any]
) -> None:
    """Nothing is gained by waiting."""
    url = plain_url(server, other, database="several").replace("plain:x@", "nobody:x@")
    with pytest.raises(AuthenticationError) as none:
        await opened(url, retry=QUICK).fetch_value("select 1")
    assert not none.value.is_transient


# --- a Galera node -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def galera() -> Iterator[GaleraCluster]:
    """A cluster of one node, which an administrator can drain."""
    _find(MariaDbServer)
    with find_cluster("galera", GaleraCluster, nodes=1) as cluster:
        yield cluster


@pytest.mark.mariadb
async def test_a_galera_node_that_refuses_work_is_left(
    galera: GaleraCluster, lone_mariadb: DatabaseServer, opened: Callable[..., Any]
) -> None:
    """1047 empties the pool, and the next attempt goes to the other host; a lone node says so until it is back."""
    (galera_node,) = galera.nodes
    url = plain_url(galera_node, lone_mariadb, database="galera")
    for each in (galera_node, lone_mariadb):
        each.execute("create or replace table galera.stock (id integer primary key, quantity integer not null)")
        each.execute("insert into galera.stock values (1, 0)")
    port = _PORT["mariadb"]
    db = opened(url, pool_size=SIZE, max_overflow=0, retry=QUICK)
    await db.open()
    assert await in_all_sessions(db, port) == {galera_node.port}
    failures = db.hooks.add(Failures())
    alone = opened(plain_url(galera_node, database="galera"), retry=QUICK)
    await once_more(alone)
    with galera.drained(galera_node):
        await once_more(db)
        assert failures.kinds == [ErrorKind.NOT_READY]
        assert await in_all_sessions(db, port) == {lone_mariadb.port}
        for _ in range(SIZE):
            await once_more(db)
        assert failures.kinds == [ErrorKind.NOT_READY]
        with pytest.raises(NotReadyError) as error:
            await once_more(alone)
        assert error.value.is_transient
    await once_more(alone)
    assert await quantity(alone) == 2
    assert await quantity(db) == 1 + SIZE


# --- judged by code ------------------------------------------------------------------------------

_WRONG_NODE = {
    "postgresql": ["25006", "57P01", "57P02", "57P03"],
    "mariadb": [1047, 1180, 1053, 1290, 1792, 1836],
    "mysql": [1290, 3989, 1053, 1792],
}
_RIGHT_NODE = {"postgresql": ["23505", "40001", "55P03", "57014"], "mariadb": [1062, 1213, 1205, 1969], "mysql": [1062]}


@pytest.mark.parametrize("dialect", list(_WRONG_NODE))
def test_every_error_of_a_wrong_node_is_a_disconnect(dialect: str) -> None:
    """Read-only, not ready, shutting down, starting up: the pool is emptied. Of anything else it isn't."""
    judge = _dialect(dialect)
    for code in _WRONG_NODE[dialect]:
        assert judge.is_disconnect(_driver_error(dialect, code), None, None), code
    for code in _RIGHT_NODE[dialect]:
        assert not judge.is_disconnect(_driver_error(dialect, code), None, None), code
    if dialect != "postgresql":
        other_option = _driver_error(dialect, 1290, "running with the --secure-file-priv option")
        assert not judge.is_disconnect(other_option, None, None)


def _dialect(name: str) -> Any:
    from prefiq_db.dialects.mariadb import PrefiqMariadb, PrefiqMysql
    from prefiq_db.dialects.postgresql import PrefiqPostgresql

    made = {"postgresql": PrefiqPostgresql, "mariadb": PrefiqMariadb, "mysql": PrefiqMysql}[name]
    return made(dbapi=made.import_dbapi())


def _driver_error(dialect: str, code: Any, text: str = "running with the --read-only option") -> Exception:
    if dialect == "postgresql":
        import psycopg

        return psycopg.errors.lookup(code)("refused")
    import pymysql

    error: Exception = pymysql.err.OperationalError(code, text)
    return error
