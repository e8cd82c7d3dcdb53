"""Whoever gives up waiting leaves nothing running at the server: no statement, and no lock that it holds."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any

import anyio
import pytest

from prefiq_db import Database
from prefiq_db.drivers import stopping
from prefiq_db.drivers.deadlines import DeadlinePassed
from prefiq_db.errors import LockTimeoutError
from tests.conftest import Backend
from tests.twins.harness import Harness
from tests.twins.support import (
    COUNT_STOCK,
    CREATE_STOCK,
    INSERT_STOCK,
    is_sleeping,
    is_waiting_for_lock,
    on_engine,
    session_id,
    slow_read,
)

# SQLite's library works in the caller's own process: it is interrupted there, see test_cancellation.py.
servers = pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")],
    indirect=True,
)
async_only = pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))])
sync_only = pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)])
mariadb_only = pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)

SESSION = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}
UPDATE = "update stock set quantity = quantity + 1 where id = 1"
QUANTITY = "select quantity from stock where id = 1"


async def cancelled_as_a_task(work: Callable[[], Awaitable[None]], begun: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work()

    task = asyncio.create_task(run())
    await begun()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def cancelled_by_anyio(work: Callable[[], Awaitable[None]], begun: Callable[[], Awaitable[None]]) -> None:
    """As FastAPI does when the client has gone."""

    async def run() -> None:
        await work()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await begun()
        group.cancel_scope.cancel()


how = pytest.mark.parametrize("cancel", [cancelled_as_a_task, cancelled_by_anyio], ids=["asyncio", "anyio"])


async def make_stock(db: Any) -> None:
    await db.execute(CREATE_STOCK)
    await db.execute(INSERT_STOCK, {"id": 1, "quantity": 0})


class Sleeper:
    """A transaction that has changed a row and then runs a long statement."""

    def __init__(self, db: Any, backend: Backend, harness: Harness) -> None:
        self.db, self.backend, self.harness = db, backend, harness
        self.session = 0

    async def work(self) -> None:
        async with self.db.transaction() as tx:
            self.session = await session_id(tx, self.backend)
            await tx.execute(UPDATE)
            await tx.fetch_value(slow_read(self.backend))

    async def sleeps(self) -> bool:
        return self.session > 0 and await is_sleeping(self.backend, self.session)

    async def begun(self) -> None:
        await self.harness.until(self.sleeps)

    async def ended(self) -> None:
        async def awake() -> bool:
            return not await self.sleeps()

        await self.harness.until(awake)


@servers
@async_only
@how
async def test_a_cancelled_statement_ends_at_the_server_and_its_row_is_free(
    make_db: Any, backend: Backend, harness: Harness, cancel: Any
) -> None:
    db, other = make_db(pool_size=1), make_db()
    await make_stock(db)
    sleeper = Sleeper(db, backend, harness)
    await cancel(sleeper.work, sleeper.begun)
    await sleeper.ended()
    # Its server is still at the end of it, perhaps; it would be at work for a minute.
    await other.using(timeout=20).execute(UPDATE)
    assert await other.fetch_value(QUANTITY) == 1, "the cancelled transaction left nothing"
    assert await db.fetch_value(COUNT_STOCK) == 1, "the pool has a connection to give"


@servers
@async_only
async def test_control_a_closed_connection_alone_leaves_statement_and_lock(
    make_db: Any, backend: Backend, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, other = make_db(pool_size=1), make_db(lock_timeout_seconds=1, retry={"attempts": 1})
    await make_stock(db)
    sleeper = Sleeper(db, backend, harness)
    if backend.name == "mariadb":
        monkeypatch.setattr("prefiq_db.drivers.asyncmy.Clock._session_ended", lambda self: None)
    else:
        monkeypatch.setattr("prefiq_db.drivers.psycopg.AsyncConnection._can_be_stopped", lambda self: False)
    await cancelled_by_anyio(sleeper.work, sleeper.begun)
    assert await sleeper.sleeps()
    with pytest.raises(LockTimeoutError):
        await other.execute(UPDATE)
    assert backend.server is not None
    backend.server.execute(
        f"kill {sleeper.session}" if backend.name == "mariadb" else f"select pg_terminate_backend({sleeper.session})"
    )
    await sleeper.ended()


@servers
@async_only
@how
async def test_a_cancelled_write_that_waits_for_a_row_does_not_happen_later(
    make_db: Any, backend: Backend, harness: Harness, cancel: Any
) -> None:
    db, holder = make_db(pool_size=1), make_db(pool_size=1)
    await make_stock(db)
    session = await session_id(db, backend)  # the one connection that the pool has
    async with holder.transaction() as tx:
        await tx.execute("update stock set quantity = 10 where id = 1")

        async def waits() -> None:
            await harness.until(lambda: is_waiting_for_lock(backend, session))

        async def write() -> None:
            await db.execute(UPDATE)

        await cancel(write, waits)

        async def gone() -> bool:
            return not await is_waiting_for_lock(backend, session)

        await harness.until(gone)
    assert await holder.fetch_value(QUANTITY) == 10
    assert await db.fetch_value(QUANTITY) == 10


class TimeIsUpError(Exception):
    """What a job queue's signal handler raises."""


@pytest.fixture
def alarm() -> Iterator[None]:
    def handler(number: int, frame: FrameType | None) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@servers
@sync_only
async def test_a_statement_that_a_signal_interrupts_ends_at_the_server(
    make_db: Any, backend: Backend, harness: Harness, alarm: None
) -> None:
    db, other = make_db(pool_size=1), make_db()
    await make_stock(db)
    sleeper = Sleeper(db, backend, harness)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with pytest.raises(TimeIsUpError):
        await sleeper.work()
    await sleeper.ended()
    await other.using(timeout=20).execute(UPDATE)
    assert await other.fetch_value(QUANTITY) == 1


@servers
async def test_a_statement_that_our_own_clock_gives_up_ends_at_the_server(
    make_db: Any, backend: Backend, harness: Harness
) -> None:
    """A driver's clock may be the shorter one: a call has a limit for all that it does."""
    db = make_db(pool_size=1)
    session = 0

    def wait_too_long(connection: Any) -> None:
        nonlocal session
        dialect = connection.dialect
        raw = connection.connection.dbapi_connection
        ((session,),) = dialect.ask(raw, SESSION[backend.name])
        dialect.set_patience(raw, 0.2)
        with pytest.raises(DeadlinePassed):
            dialect.control(raw, slow_read(backend))
        connection.invalidate()

    await on_engine(db, wait_too_long)

    async def awake() -> bool:
        return not await is_sleeping(backend, session)

    await harness.until(awake)


SLOW_COMMIT = {
    # The server works for half a second in COMMIT itself.
    "postgresql": [
        "create function doze() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(0.5); return null; end $$",
        "create constraint trigger slow after update on stock deferrable initially deferred"
        " for each row execute function doze()",
    ],
    "mariadb": [],
}


@servers
@pytest.mark.parametrize("let_go_on", [True, False], ids=["promised", "control"])
async def test_a_commit_that_is_given_up_goes_on(
    make_db: Any, backend: Backend, harness: Harness, let_go_on: bool
) -> None:
    """Nobody knows what becomes of it; to stop it would only make that worse."""
    db = make_db(pool_size=1)
    await make_stock(db)
    for statement in SLOW_COMMIT[backend.name]:
        await db.execute(statement)

    def commit(connection: Any) -> None:
        dialect, raw = connection.dialect, connection.connection.dbapi_connection
        dialect.control(raw, "begin")
        dialect.control(raw, UPDATE)
        dialect.set_patience(raw, 0.1)
        with stuck_commits(backend):
            with pytest.raises(DeadlinePassed):
                dialect._send_commit(raw) if let_go_on else dialect.control(raw, "commit")
            connection.invalidate()
            if not let_go_on:
                until_nobody_commits(backend)

    await on_engine(db, commit)

    async def done() -> bool:
        return bool(await db.fetch_value(QUANTITY) == 1)

    if let_go_on:
        await harness.until(done)
    else:
        assert not await done()


@contextlib.contextmanager
def stuck_commits(backend: Backend) -> Iterator[None]:
    """Keep MariaDB from committing."""
    if backend.name != "mariadb":
        yield
        return
    with Database(backend.url, pool_size=1) as holder:
        connection = holder.engine.raw_connection()
        cursor = connection.cursor()
        cursor.execute("flush tables with read lock")
        try:
            yield
        finally:
            cursor.execute("unlock tables")
            connection.close()


COMMITTING = {
    "postgresql": "select 1 from pg_stat_activity where state = 'active' and lower(query) = 'commit'",
    "mariadb": "select 1 from information_schema.processlist where lower(info) = 'commit'",
}


def until_nobody_commits(backend: Backend) -> None:
    assert backend.server is not None
    until = time.monotonic() + 20
    while backend.server.execute(COMMITTING[backend.name]):
        assert time.monotonic() < until
        time.sleep(0.01)


@mariadb_only
async def test_nobody_elses_session_is_ended(make_db: Any, backend: Backend, harness: Harness) -> None:
    """A number may be another session's: behind one address may be several servers, and one may have restarted."""
    db = make_db(pool_size=1)
    session = await session_id(db, backend)

    def end(connection: Any) -> None:
        raw = connection.connection.dbapi_connection
        clock = connection.dialect.clock_of(raw)
        assert clock.end_session is not None
        clock.end_session(session, 1)
        clock.end_session(session, None)

    await on_engine(db, end)
    assert await session_id(db, backend) == session


def test_a_thread_that_cannot_be_had_is_nobodys_problem(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At the interpreter's end there are no new threads; and what goes wrong in one is only told."""

    def refuse() -> None:
        raise ValueError("hunter2")

    caplog.set_level("INFO", logger="prefiq_db.drivers")
    assert stopping.beside(refuse).result(20) is None
    monkeypatch.setattr("threading.Thread.start", lambda self: (_ for _ in ()).throw(RuntimeError("can't start")))
    assert stopping.beside(refuse).result(20) is None
    assert [record.message.partition("(")[2] for record in caplog.records] == ["ValueError)", "RuntimeError)"]
    assert "hunter2" not in caplog.text
