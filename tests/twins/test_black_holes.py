"""Every verb comes back in its time from a server that is frozen, or from behind a network that fell silent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar

import pytest
from sqlalchemy import text

from prefiq_db import ErrorKind, RetryPolicy
from prefiq_db.deadline import Deadline, Shares
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.drivers.addresses import addresses_of, is_name
from prefiq_db.drivers.deadlines import GRACE_SECONDS, UNBOUNDED_SECONDS
from prefiq_db.errors import (
    ConnectFailedError,
    NotCommittedError,
    OutcomeUnknownError,
    PoolTimeoutError,
    PrefiqDbError,
    StatementTimeoutError,
)
from prefiq_db.testing import DatabaseServer, MariaDbServer, PostgresServer
from prefiq_db.testing.links import Link
from prefiq_db.testing.proxy import TcpProxy
from prefiq_db.transaction import Outcome
from tests.conftest import _server_factory
from tests.lateness import Lateness
from tests.twins.harness import Harness, drive, make_database
from tests.twins.support import assert_silent, let_the_picture_grow_old

STATEMENT = 0.5
CONNECT = 0.6
ONCE = RetryPolicy(attempts=1)
# On top of a limit: our own grace, and what a busy machine may add beside being late. Without a limit it is for ever.
SLACK = 3.0
SLEEP = {"postgresql": "select pg_sleep(60)", "mariadb": "select sleep(60)"}
OPEN_TRANSACTIONS = {
    "postgresql": "select count(*) from pg_stat_activity where xact_start is not null and pid <> pg_backend_pid()"
    " and backend_type = 'client backend'",
    "mariadb": "select count(*) from information_schema.innodb_trx",
}
SLEEPERS = {
    "postgresql": "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'",
    "mariadb": "select count(*) from information_schema.processlist where info like 'select sleep%'",
}


# Where one kind of hole says as much as the other, or there is none.
once = pytest.mark.parametrize("hole", ["frozen"], indirect=True)
# Threads aren't cancelled.
async_only = pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))])


# --- the holes -----------------------------------------------------------------------------------


class SilentNetwork(TcpProxy):
    """Passes everything on, until it passes nothing on: connections stay open and nobody hears anybody."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.silent = False
        self._deaf: set[Link] = set()

    def client_sent(self, link: Link, data: bytes) -> bytes:
        return self._passed(link, data)

    def server_sent(self, link: Link, data: bytes) -> bytes:
        return self._passed(link, data)

    def _passed(self, link: Link, data: bytes) -> bytes:
        if not self.silent:
            return data
        self._deaf.add(link)
        return b""

    def speak(self) -> None:
        """Pass on again. What lost bytes meanwhile is of no use any more, to either side."""

        def speak() -> None:
            self.silent = False
            for link in self._deaf:
                self._reset(link)
            self._deaf.clear()

        self.call(speak)


class Hole:
    """A server that can fall silent."""

    def __init__(self, name: str, server: DatabaseServer, url: str) -> None:
        self.name = name
        self.server = server
        self.url = url

    def fall_silent(self) -> None:
        self.server.freeze()

    def recover(self) -> None:
        self.server.thaw()

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        self.fall_silent()
        try:
            yield
        finally:
            self.recover()


class SilentHole(Hole):
    def __init__(self, name: str, server: DatabaseServer, url: str, proxy: SilentNetwork) -> None:
        super().__init__(name, server, proxy.url(url))
        self.proxy = proxy

    def fall_silent(self) -> None:
        self.proxy.call(lambda: setattr(self.proxy, "silent", True))

    def recover(self) -> None:
        self.proxy.speak()


class DrippingServer:
    """Says one byte of its greeting every tenth of a second, and never ends."""

    _GREETING: ClassVar = {"postgresql": b"NE\x00\x00\x40\x00S", "mariadb": b"\xff\x00\x00\x00\x0a"}

    def __init__(self, name: str) -> None:
        self._greeting = self._GREETING[name] + b"x" * 1000
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        open_ones: list[tuple[socket.socket, Iterator[int]]] = []
        self._listener.settimeout(0.1)
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                open_ones.append((self._listener.accept()[0], iter(self._greeting)))
            for client, rest in open_ones:
                with contextlib.suppress(OSError):
                    client.send(bytes([next(rest)]))
        for client, _ in open_ones:
            client.close()
        self._listener.close()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


# --- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(PostgresServer, marks=pytest.mark.postgresql, id="postgresql"),
        pytest.param(MariaDbServer, marks=pytest.mark.mariadb, id="mariadb"),
    ],
)
def own_server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """A server that nobody else uses: it will be frozen."""
    with contextlib.contextmanager(_server_factory)(request.param) as new_server:
        yield new_server()


@pytest.fixture(params=["frozen", "silent"])
def hole(request: pytest.FixtureRequest, own_server: DatabaseServer) -> Iterator[Hole]:
    database = own_server.create_database()
    url = own_server.url(database)
    name = own_server.kind.name
    if request.param == "frozen":
        yield Hole(name, own_server, url)
        return
    with SilentNetwork(own_server.host, own_server.port) as proxy:
        yield SilentHole(name, own_server, url, proxy)


@pytest.fixture
def make(hole: Hole, world: str, loop_runner: asyncio.Runner) -> Iterator[Callable[..., Any]]:
    """Make open databases on the hole, and see that nothing of them is left behind."""
    run = loop_runner.run if world == "async" else drive
    made: list[Any] = []
    before = _left_behind()

    def make_one(**fields: Any) -> Any:
        limits = {"statement_timeout_seconds": STATEMENT, "connect_timeout_seconds": CONNECT, "retry": ONCE}
        made.append(make_database(world, hole.url, **{**limits, "pool_size": 1, "max_overflow": 1, **fields}))
        return made[-1]

    yield make_one
    checked_out = [each.stats().pool.checked_out for each in made]
    for each in made:
        run(each.close())
    if world == "async":
        run(_only_task())
    assert not any(checked_out)
    # The proxy's own sockets go when it has heard of the clients' going.
    _until(lambda: _left_behind() == before, lambda: f"{_left_behind()} instead of {before}")


async def _only_task() -> None:
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


def _left_behind() -> tuple[int, int]:
    """Return how many sockets are open and how many threads run."""
    sockets = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            sockets += os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    # The watchdog of leaks and slow hooks lives as long as a database is open.
    names = [thread.name for thread in threading.enumerate() if "watchdog" not in thread.name]
    return sockets, len(names)


def _until(condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.01)


async def within(limit: float, action: Awaitable[Any]) -> Any:
    """Return what *action* returns or raises, which must be in time."""
    with Lateness() as late:
        started = time.monotonic()
        try:
            result = await action
        except (Exception, asyncio.CancelledError) as error:
            result = error
        took = time.monotonic() - started
    assert took < limit + SLACK + late.seconds, f"{took:.2f} s, for a limit of {limit:g} s: {result!r}"
    return result


async def serves_again(db: Any, hole: Hole, harness: Harness) -> None:
    """The pool is whole, and nothing is open at the server."""
    assert await db.using(retry=RetryPolicy(), timeout=5).fetch_value("select 1") == 1
    assert db.stats().pool.checked_out == 0

    async def nothing_is_open() -> bool:
        let_the_picture_grow_old(hole.name)
        return int(hole.server.execute(OPEN_TRANSACTIONS[hole.name])[0][0]) == 0

    await harness.until(nothing_is_open)


async def ready(make: Callable[..., Any], **fields: Any) -> Any:
    """Return a database with a table and a warm pool."""
    db = make(**fields)
    await db.open()
    await db.using(timeout=10).execute("create table if not exists item (id integer primary key)")
    # The timeout that was set for that must not be in the way of the next statement.
    await db.fetch_value("select 1")
    return db


# --- verbs ---------------------------------------------------------------------------------------

INSERT = "insert into item (id) values (:id)"


async def _in_transaction(db: Any) -> None:
    async def body(tx: Any) -> None:
        await tx.execute(INSERT, {"id": 1})

    await db.run_in_transaction(body)


async def _attempt(db: Any) -> None:
    async for attempt in db.attempts():
        async with attempt as tx:
            await tx.execute(INSERT, {"id": 1})


async def _begin(db: Any) -> None:
    async with db.transaction() as tx:
        await tx.fetch_value("select 1")  # BEGIN may travel with it


async def _session(db: Any) -> None:
    async with db.session() as session:
        await session.execute(text("select 1"))


async def _stream(db: Any) -> None:
    async with db.stream("select 1"):
        pass


VERBS: dict[str, tuple[Callable[[Any], Awaitable[Any]], type[Exception]]] = {
    "fetch_all": (lambda db: db.fetch_all("select 1"), StatementTimeoutError),
    "fetch_one": (lambda db: db.fetch_one("select 1"), StatementTimeoutError),
    "fetch_value": (lambda db: db.fetch_value("select 1"), StatementTimeoutError),
    "stream": (_stream, StatementTimeoutError),
    "execute": (lambda db: db.execute(INSERT, {"id": 1}), OutcomeUnknownError),
    "execute_many": (lambda db: db.execute_many(INSERT, [{"id": 1}, {"id": 2}]), StatementTimeoutError),
    "transaction": (_begin, StatementTimeoutError),
    "run_in_transaction": (_in_transaction, StatementTimeoutError),
    "attempts": (_attempt, StatementTimeoutError),
    "ping": (lambda db: db.ping(), StatementTimeoutError),
    "session": (_session, Exception),
}


# What is sent, and how it is read, is the same for some; a silent network tells no more of those.
_SILENCED = ("fetch_value", "execute", "execute_many", "transaction", "session")


@pytest.mark.parametrize(
    ("hole", "verb"),
    [*(("frozen", verb) for verb in VERBS), *(("silent", verb) for verb in _SILENCED)],
    indirect=["hole"],
)
async def test_a_verb_comes_back(verb: str, make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """It raises what it means, in its time; then the pool is whole and the server rid of it."""
    run, error_type = VERBS[verb]
    db = await ready(make)
    with hole.silence():
        error = await within(STATEMENT, run(db))
    assert isinstance(error, error_type), repr(error)
    if isinstance(error, PrefiqDbError):
        assert_silent(error)
        assert error.classification.connection_lost
        assert error.kind is not ErrorKind.STATEMENT_TIMEOUT or "did not answer" in str(error)
    await serves_again(db, hole, harness)


async def test_in_a_transaction(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """A statement or a savepoint that isn't answered ends the transaction: nothing of it was committed."""
    db = await ready(make)
    for step in ("statement", "many", "savepoint", "release"):
        bodies: list[Any] = []

        async def body(step: str = step, bodies: list[Any] = bodies) -> None:
            async with db.transaction() as tx:
                bodies.append(tx)
                await tx.execute(INSERT, {"id": 1})
                if step == "release":
                    async with tx.transaction():
                        hole.fall_silent()
                hole.fall_silent()
                if step == "statement":
                    await tx.execute(INSERT, {"id": 2})
                elif step == "many":
                    await tx.execute_many(INSERT, [{"id": 2}, {"id": 3}])
                async with tx.transaction():
                    pass

        try:
            error = await within(STATEMENT, body())
        finally:
            hole.recover()
        assert isinstance(error, (StatementTimeoutError, NotCommittedError)), (step, error)
        assert bodies[0].outcome is Outcome.NOT_COMMITTED
        await serves_again(db, hole, harness)
        assert await db.fetch_value("select count(*) from item") == 0


async def test_commit(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """Nobody knows what became of it, and that is said in time."""
    db = await ready(make)
    tx = db.transaction()

    async def body() -> None:
        async with tx as open_one:
            await open_one.execute(INSERT, {"id": 1})
            hole.fall_silent()

    try:
        error = await within(STATEMENT, body())
    finally:
        hole.recover()
    assert isinstance(error, OutcomeUnknownError)
    assert error.kind is ErrorKind.OUTCOME_UNKNOWN
    assert tx.outcome is Outcome.UNKNOWN
    await serves_again(db, hole, harness)


async def test_rollback(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """The caller's own error goes on; the connection is closed, and the server rolls back by itself."""
    db = await ready(make)

    async def body() -> None:
        async with db.transaction() as tx:
            await tx.execute(INSERT, {"id": 1})
            hole.fall_silent()
            raise KeyError("mine")

    try:
        error = await within(STATEMENT, body())
    finally:
        hole.recover()
    assert isinstance(error, KeyError)
    await serves_again(db, hole, harness)
    assert await db.fetch_value("select count(*) from item") == 0


async def test_open_and_close(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """open() is bounded by the connect timeout; close() waits for nobody, however many connections are in the hole."""
    db = await ready(make, pool_size=5)
    with hole.silence():
        assert await within(0.2, db.close()) is None
        error = await within(CONNECT, db.open())
    assert isinstance(error, ConnectFailedError)
    assert_silent(error)
    await serves_again(db, hole, harness)


async def test_a_checkout_that_asks_first(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """The ping before use and the connecting after it share the limit of connecting."""
    db = await ready(make, ping_after_idle_seconds=0)
    with hole.silence():
        error = await within(CONNECT, db.fetch_value("select 1"))
    assert isinstance(error, ConnectFailedError)
    await serves_again(db, hole, harness)


async def test_diagnosis(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """test_connection() and health() never raise, and health() has a limit of its own."""
    db = await ready(make)
    with hole.silence():
        assert await within(STATEMENT, db.test_connection()) is False
    assert await db.test_connection()
    with hole.silence():
        report = await within(0.2, db.health(timeout=0.2))
        assert not report.healthy
        assert report.kind in (ErrorKind.STATEMENT_TIMEOUT, ErrorKind.CONNECT_FAILED)
    await serves_again(db, hole, harness)


async def test_a_limit_of_the_caller_bounds_the_whole_call(
    make: Callable[..., Any], hole: Hole, harness: Harness
) -> None:
    """using(timeout=...) holds for the wait for the pool, connecting, and all attempts together."""
    patient: dict[str, Any] = {"statement_timeout_seconds": 20, "connect_timeout_seconds": 20, "retry": RetryPolicy()}
    db = await ready(make, **patient)
    empty = make(**patient)
    with hole.silence():
        for each in (db, db, empty):
            error = await within(0.4, each.using(timeout=0.4).fetch_value("select 1"))
            assert isinstance(error, (StatementTimeoutError, ConnectFailedError)), repr(error)
        error = await within(0.4, db.using(timeout=0.4).execute(INSERT, {"id": 1}))
        assert isinstance(error, (OutcomeUnknownError, ConnectFailedError)), repr(error)
    await serves_again(db, hole, harness)


async def test_a_limit_of_the_caller_bounds_a_transaction(
    make: Callable[..., Any], hole: Hole, harness: Harness
) -> None:
    """using(timeout=...) holds for connecting and BEGIN; a transaction's own limit for what is left of it."""
    patient: dict[str, Any] = {"statement_timeout_seconds": 20, "connect_timeout_seconds": 20}
    db = await ready(make, **patient)
    with hole.silence():
        for _ in range(2):
            error = await within(0.4, _begin(db.using(timeout=0.4)))
            assert isinstance(error, (StatementTimeoutError, ConnectFailedError)), repr(error)
    await serves_again(db, hole, harness)
    started = time.monotonic()

    async def body() -> None:
        async with db.transaction(timeout=1) as tx:
            await tx.fetch_value("select 1")

            async def late() -> bool:
                return time.monotonic() > started + 0.6

            await harness.until(late)
            hole.fall_silent()
            await tx.fetch_value("select 1")

    try:
        error = await within(1, body())
    finally:
        hole.recover()
    assert isinstance(error, StatementTimeoutError)
    await serves_again(db, hole, harness)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
async def test_under_tls(kind: str, world: str, request: pytest.FixtureRequest) -> None:
    """TLS has a greeting and a goodbye of its own; neither is waited for longer, and no socket stays for them."""
    server = request.getfixturevalue(f"new_{kind}_server")(tls=True)
    limits: dict[str, Any] = {"statement_timeout_seconds": STATEMENT, "connect_timeout_seconds": CONNECT}
    before = _left_behind()[0]
    db = make_database(world, server.url(), ssl_mode="require", pool_size=3, max_overflow=0, retry=ONCE, **limits)
    await db.open()
    server.freeze()
    try:
        assert isinstance(await within(STATEMENT, db.fetch_value("select 1")), StatementTimeoutError)
        assert isinstance(await within(CONNECT, db.fetch_value("select 1")), ConnectFailedError)
        server.thaw()
        await db.open()
        server.freeze()
        if world == "async":

            async def impatient() -> None:
                async with asyncio.timeout(0.3):
                    await db.fetch_value("select 1")

            assert isinstance(await within(0.3, impatient()), TimeoutError)
        assert await within(0.2, db.close()) is None
        if world == "async":
            await asyncio.sleep(0.1)
        assert _left_behind()[0] == before, "a socket waits for the server's goodbye"
    finally:
        server.thaw()


# --- connecting ----------------------------------------------------------------------------------


@pytest.fixture
def dripping(hole: Hole) -> Iterator[DrippingServer]:
    server = DrippingServer(hole.name)
    yield server
    server.stop()


@once
async def test_a_drip_does_not_extend_connecting(hole: Hole, world: str, dripping: DrippingServer) -> None:
    """A greeting that comes byte by byte is no answer."""
    scheme = {"postgresql": "postgresql", "mariadb": "mariadb"}[hole.name]
    db = make_database(
        world, f"{scheme}://u:p@127.0.0.1:{dripping.port}/x", connect_timeout_seconds=CONNECT, retry=ONCE
    )
    assert isinstance(await within(CONNECT, db.fetch_value("select 1")), ConnectFailedError)
    await db.close()


@once
async def test_the_second_host_gets_its_share(hole: Hole, world: str, dripping: DrippingServer) -> None:
    """A first host that says nothing doesn't eat the whole time; and all of them together don't take more than it."""
    place = f"{hole.server.host}:{hole.server.port}"
    limits: dict[str, Any] = {"connect_timeout_seconds": 1.5, "retry": ONCE}
    for host in ("127.0.0.1", "localhost"):
        db = make_database(world, hole.url.replace(place, f"{host}:{dripping.port},{place}"), **limits)
        assert await within(1.5, db.fetch_value("select 1")) == 1
        await db.close()
    two = make_database(
        world, hole.url.replace(place, f"127.0.0.1:{dripping.port},127.0.0.1:{dripping.port}"), **limits
    )
    assert isinstance(await within(1.5, two.fetch_value("select 1")), ConnectFailedError)
    await two.close()


@once
async def test_a_silent_resolver(
    hole: Hole, world: str, dripping: DrippingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking a name up is part of connecting, although nothing can interrupt the system's resolver."""
    answered = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        answered.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    scheme = {"postgresql": "postgresql", "mariadb": "mariadb"}[hole.name]
    db = make_database(world, f"{scheme}://u:p@db.example:1/x", connect_timeout_seconds=CONNECT, retry=ONCE)
    try:
        assert isinstance(await within(CONNECT, db.fetch_value("select 1")), ConnectFailedError)
    finally:
        answered.set()
        await db.close()


def test_names_and_shares() -> None:
    """Addresses need no resolver; each try gets a fair part of what is left."""
    assert [is_name(host) for host in ("db.example", "localhost", "10.0.0.1", "::1", "fe80::1%eth0", "/run", "")] == [
        *(True, True),
        *(False, False, False, False, False),
    ]
    assert addresses_of("127.0.0.1", 5, Deadline.after(0))[0][4] == ("127.0.0.1", 5)
    shares = Shares(Deadline.after(12.0), 3)
    now = time.monotonic()
    assert [round(shares.next().at - now) for _ in range(4)] == [4, 6, 12, 12]


# --- cancellation --------------------------------------------------------------------------------


@async_only
async def test_a_cancelled_statement_in_the_hole(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """asyncio.timeout() ends when it says, whatever the driver would like to ask the server first."""
    db = await ready(make, statement_timeout_seconds=60)

    async def impatient() -> None:
        async with asyncio.timeout(0.3):
            await db.fetch_value("select 1")

    with hole.silence():
        assert isinstance(await within(0.3, impatient()), TimeoutError)
    await serves_again(db, hole, harness)


@async_only
async def test_a_cancelled_statement_of_a_healthy_server_is_stopped_there(
    make: Callable[..., Any], hole: Hole, harness: Harness
) -> None:
    """No statement goes on at PostgreSQL for nobody; MariaDB notices that its client has gone."""
    db = await ready(make, statement_timeout_seconds=60)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await db.fetch_value(SLEEP[hole.name])

    async def stopped() -> bool:
        return int(hole.server.execute(SLEEPERS[hole.name])[0][0]) == 0

    if hole.name == "postgresql":
        await harness.until(stopped)
    await serves_again(db, hole, harness)


# --- what is no black hole -----------------------------------------------------------------------


@once
async def test_the_servers_own_word_comes_first(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """A statement that takes too long on a server that lives is ended by the server, and the connection lives on."""
    db = await ready(make)
    opened = db.stats().pool.lost
    for _ in range(2):
        error = await within(STATEMENT, db.fetch_value(SLEEP[hole.name]))
        assert isinstance(error, StatementTimeoutError)
        assert not error.classification.connection_lost
        assert error.code is not None
    assert db.stats().pool.lost == opened


@once
async def test_a_batch_may_take_longer_than_a_statement(make: Callable[..., Any], hole: Hole) -> None:
    """The limit is a statement's: many of them, each quick enough, go on for as long as they take."""
    limit = 0.7
    db = await ready(make, statement_timeout_seconds=limit)
    slow = {
        "postgresql": "insert into item (id) select :id from pg_sleep(0.002)",
        "mariadb": "insert into item (id) select :id from (select sleep(0.002)) as slept",
    }[hole.name]
    started = time.monotonic()
    count = 900 if hole.name == "postgresql" else 600
    if hole.name == "postgresql":
        assert await db.execute_many(slow, [{"id": number} for number in range(count)]) == count
    else:
        async with db.transaction() as tx:
            for number in range(count):
                await tx.execute(slow, {"id": number})
    assert time.monotonic() - started > limit + GRACE_SECONDS
    assert await db.fetch_value("select count(*) from item") == count


@once
async def test_a_long_pause_between_two_rows_of_a_stream_is_the_callers(make: Callable[..., Any], hole: Hole) -> None:
    """Each fetch of a server-side cursor has its own time."""
    db = await ready(make, statement_timeout_seconds=1)
    await db.execute_many(INSERT, [{"id": number} for number in range(500)])
    engine = db.engine
    statement = text("select a.id from item a, item b where b.id < 100")

    def read(connection: Any) -> int:
        count = 0
        with connection.execution_options(stream_results=True, max_row_buffer=1000).execute(statement) as result:
            for count, _ in enumerate(result, 1):
                if count == 1000:
                    time.sleep(1 + GRACE_SECONDS)
        return count

    if hasattr(engine, "sync_engine"):
        async with engine.connect() as connection:
            assert await connection.run_sync(read) == 50_000
    else:
        with engine.connect() as connection:
            assert read(connection) == 50_000


@pytest.mark.parametrize("hole", ["frozen", "silent"], indirect=True)
async def test_a_batch_of_a_stream_comes_in_time_or_not_at_all(
    make: Callable[..., Any], hole: Hole, harness: Harness
) -> None:
    """The rows given so far are given; the next batch is StatementTimeoutError in its time, and the pool is whole."""
    db = await ready(make)
    await db.using(timeout=10).execute_many(INSERT, [{"id": number} for number in range(700)])
    seen = 0

    async def read() -> None:
        nonlocal seen
        # More rows than the network holds for a reader who doesn't read: the rest can't be there already.
        async with db.stream("select repeat('x', 4000) from item a, item b", batch_size=100) as rows:
            async for _ in rows:
                if not seen:
                    hole.fall_silent()
                seen += 1

    try:
        error = await within(10 + STATEMENT, read())
    finally:
        hole.recover()
    assert isinstance(error, StatementTimeoutError), repr(error)
    assert 100 <= seen < 490_000
    await serves_again(db, hole, harness)


async def test_the_pool_is_waited_for_in_time(make: Callable[..., Any], hole: Hole, harness: Harness) -> None:
    """Who waits for a connection that is in the hole has a limit of their own."""
    db = await ready(make, max_overflow=0, pool_timeout_seconds=0.2)
    with hole.silence():
        results: list[Any] = []

        async def ask() -> None:
            results.append(await within(0.2 + STATEMENT + CONNECT, db.fetch_value("select 1")))

        await harness.together(ask, ask)
    assert any(isinstance(result, StatementTimeoutError) for result in results), results
    assert all(isinstance(result, (StatementTimeoutError, PoolTimeoutError, ConnectFailedError)) for result in results)
    await serves_again(db, hole, harness)


# --- control -------------------------------------------------------------------------------------


async def test_without_the_clocks_it_would_wait_for_the_thaw(
    make: Callable[..., Any], hole: Hole, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the same statement, with the drivers' clocks standing still, comes back only when the server does."""
    bounds: list[float] = []
    set_patience = PrefiqDialect.set_patience

    def never(self: Any, connection: Any, seconds: float) -> None:
        bounds.append(seconds)
        set_patience(self, connection, UNBOUNDED_SECONDS)

    monkeypatch.setattr(PrefiqDialect, "set_patience", never)
    db = await ready(make)
    ended: list[float] = []
    hang_seconds = STATEMENT + SLACK + 0.3

    async def ask() -> None:
        with contextlib.suppress(PrefiqDbError):
            await db.fetch_value("select 1")
        ended.append(time.monotonic())

    async def thaw_later() -> None:
        until = time.monotonic() + hang_seconds

        async def late() -> bool:
            return time.monotonic() >= until

        await harness.until(late)
        assert not ended, "something else than the clocks brought it back"
        hole.recover()

    hole.fall_silent()
    await harness.together(ask, thaw_later)
    assert bounds, "the clocks were never asked to be set"
    assert ended


@pytest.mark.parametrize("way", ["run_in_transaction", "attempts", "transaction"])
async def test_a_limit_bounds_all_attempts_and_commit(
    make: Callable[..., Any], hole: Hole, harness: Harness, way: str
) -> None:
    """The body took most of the limit when the server falls silent before COMMIT: the rest is all that is waited."""
    patient: dict[str, Any] = {"statement_timeout_seconds": 20, "connect_timeout_seconds": 20, "retry": RetryPolicy()}
    db = await ready(make, **patient)

    limit = 0.8

    async def body(tx: Any) -> None:
        started = time.monotonic()
        await tx.fetch_value("select 1")

        async def late() -> bool:
            return time.monotonic() > started + limit * 0.6

        await harness.until(late)
        hole.fall_silent()

    async def run() -> None:
        if way == "run_in_transaction":
            await db.using(timeout=limit).run_in_transaction(body)
        elif way == "attempts":
            for attempt in db.attempts(timeout=limit):
                async with attempt as tx:
                    await body(tx)
        else:
            async with db.transaction(timeout=limit) as tx:
                await body(tx)

    for limit in (0.8, 3.2, 12.8):  # on a busy machine the body alone may take longer than the first
        try:
            error = await within(limit, run())
        finally:
            hole.recover()
        if isinstance(error, OutcomeUnknownError):
            break
    assert isinstance(error, OutcomeUnknownError), repr(error)
    await serves_again(db, hole, harness)
