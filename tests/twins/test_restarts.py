"""A server that went away and came back: stale connections cost no failed call, and an outage is waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.errors import ErrorKind, OutcomeUnknownError, PrefiqDbError
from prefiq_db.events import AttemptFailed, Listener
from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.servers import SERVERS
from tests.conftest import _find
from tests.twins.harness import drive, make_database

SIZE = 8  # one stale connection for each verb: the pool hands them out in turn
PATIENT = RetryPolicy(attempts=100, wait_initial_seconds=0.02, wait_max_seconds=0.1, total_seconds=30)


@pytest.fixture(scope="module", params=[pytest.param(n, marks=getattr(pytest.mark, n)) for n in SERVERS])
def server(request: pytest.FixtureRequest) -> Iterator[DatabaseServer]:
    """A server of this file's own, to be stopped and started."""
    _find(SERVERS[request.param])
    with SERVERS[request.param]() as made:
        yield made


@pytest.fixture
def stock(server: DatabaseServer, world: str, loop_runner: asyncio.Runner) -> Iterator[Any]:
    """A database with a full, idle pool."""
    run = loop_runner.run if world == "async" else drive
    server.start()
    db = make_database(
        world, server.url(server.create_database()), pool_size=SIZE, max_overflow=0, retry=PATIENT, retry_budget=1000
    )
    run(db.open())
    run(db.execute("create table stock (id integer primary key, quantity integer not null)"))
    run(db.execute("insert into stock (id, quantity) values (1, 0)"))
    assert db.stats().pool.idle == SIZE
    yield db
    server.start()
    run(db.close())


class Failures(Listener):
    def __init__(self, first: Callable[[], object] = int) -> None:
        self.kinds: list[ErrorKind | None] = []
        self.first = first

    def attempt_failed(self, event: AttemptFailed) -> None:
        self.kinds.append(event.kind)
        if len(self.kinds) == 1:
            self.first()


ADD = "update stock set quantity = quantity + 1 where id = 1"
READ = "select quantity from stock where id = 1"


async def add(executor: Any) -> None:
    await executor.execute(ADD)


async def in_block(db: Any) -> None:
    async with db.transaction() as tx:
        await add(tx)


async def read_in_block(db: Any) -> None:
    async with db.transaction(read_only=True) as tx:
        await tx.fetch_value(READ)


async def in_attempts(db: Any) -> None:
    for attempt in db.attempts():
        async with attempt as tx:
            await add(tx)


VERBS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "fetch_all": (lambda db: db.fetch_all(READ), 0),
    "fetch_one": (lambda db: db.fetch_one(READ), 0),
    "execute": (add, 1),
    "execute_many": (lambda db: db.execute_many(ADD + " and :one = 1", [{"one": 1}]), 1),
    "transaction": (in_block, 1),
    "read-only transaction": (read_in_block, 0),
    "run_in_transaction": (lambda db: db.run_in_transaction(add), 1),
    "attempts": (in_attempts, 1),
}


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_stale_connections_cost_no_failed_call(stock: Any, server: DatabaseServer, how: str) -> None:
    """After a restart under a full, idle pool every verb works at once: the sockets tell, before anything is sent."""
    failures = stock.hooks.add(Failures())
    if how == "kill":
        server.kill()
        server.start()
    else:
        server.restart()
    for number, (call, _) in enumerate(VERBS.values(), start=1):
        await call(stock)
        assert stock.stats().pool.lost == {"dead": number}, "each met a stale connection"
    assert failures.kinds == []
    assert await stock.fetch_value(READ) == sum(effect for _, effect in VERBS.values())


async def test_control_without_the_look_at_the_socket_calls_fail(
    stock: Any, server: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would see if dead connections were handed out: reads repeated, a write's fate unknown."""
    monkeypatch.setattr("prefiq_db.pool.vetting.is_readable", lambda descriptor: False)
    failures = stock.hooks.add(Failures())
    server.restart()
    await stock.fetch_value(READ)
    assert failures.kinds == [ErrorKind.CONNECTION_LOST] or failures.kinds == [ErrorKind.SERVER_SHUTDOWN]
    await stock.open()
    server.restart()
    with pytest.raises(OutcomeUnknownError):
        await add(stock)


@pytest.mark.parametrize("verb", ["fetch_one", "execute", "transaction", "run_in_transaction", "attempts"])
async def test_an_outage_is_waited_for(stock: Any, server: DatabaseServer, verb: str) -> None:
    """Whatever could not connect did nothing: each verb tries again until the server is back, with one effect."""
    call, effect = VERBS[verb]
    failures = stock.hooks.add(Failures(first=server.start))
    server.stop()
    await call(stock)
    assert set(failures.kinds) <= {ErrorKind.CONNECT_FAILED, ErrorKind.NOT_READY}
    assert failures.kinds
    assert await stock.fetch_value(READ) == effect


async def test_too_many_connections_is_waited_for(
    server: DatabaseServer, world: str, loop_runner: asyncio.Runner
) -> None:
    """A server without a free connection is tried again, a lone write too."""
    name = server.create_database()
    make = {
        "postgresql": ["create role few login password 'x' connection limit 1", f"alter database {name} owner to few"],
        "mariadb": ["create user few@'%' identified by 'x' with max_user_connections 1",
                    f"grant all on {name}.* to few@'%'"],
    }  # fmt: skip
    undo = {
        "postgresql": [f"drop database {name} with (force)", "drop role few"],
        "mariadb": ["drop user few@'%'"],
    }
    for statement in make[server.name]:
        server.execute(statement)
    url = f"{server.name}://few:x@{server.host}:{server.port}/{name}"
    hog, db = make_database(world, url, pool_size=1), make_database(world, url, pool_size=1, retry=PATIENT)
    try:
        await hog.execute("create table stock (id integer primary key, quantity integer not null)")
        ends = Counter[ErrorKind | None]()

        class Ends(Listener):
            def attempt_failed(self, event: AttemptFailed) -> None:
                ends[event.kind] += 1

        db.hooks.add(Ends())
        with pytest.raises(PrefiqDbError) as error:
            await db.using(retry=RetryPolicy(attempts=2, wait_initial_seconds=0)).execute(
                "insert into stock values (1, 1)"
            )
        assert error.value.kind is ErrorKind.TOO_MANY_CONNECTIONS
        assert error.value.is_transient
        assert ends == {ErrorKind.TOO_MANY_CONNECTIONS: 1}
        await hog.close()
        await db.execute("insert into stock values (1, 1)")
        assert await db.fetch_value("select count(*) from stock") == 1
    finally:
        await hog.close()
        await db.close()
        for statement in undo[server.name]:
            server.execute(statement)
