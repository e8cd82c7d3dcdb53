"""The pool: filled at open, healed before use, bounded, and safe over forks and event loops."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database, ErrorKind, RetryPolicy
from prefiq_db.dialects.session import SessionState
from prefiq_db.errors import (
    ClosedError,
    ConnectFailedError,
    EventLoopError,
    ForkError,
    OutcomeUnknownError,
    PoolTimeoutError,
    PrefiqDbError,
)
from prefiq_db.testing.wire import WireCounter
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)

_MY_ID = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}


def _kill(backend: Backend, session: int) -> None:
    """End a session from outside and wait until the server has forgotten it."""
    assert backend.server is not None
    if backend.name == "postgresql":
        # The second argument waits until the backend is gone.
        backend.server.execute(f"select pg_terminate_backend({session}, 5000)")
    else:
        backend.server.execute(f"kill {session}")


class _Word(str):
    """A value that tells whether somebody keeps it."""


@on_servers
@pytest.mark.parametrize("way", ["one-shot", "transaction"])
async def test_a_lost_connection_keeps_nothing_of_its_last_call(make_db: Any, backend: Backend, way: str) -> None:
    """Its slot may stay empty for long: neither a parameter nor a function of the caller stays in it."""
    db = make_db(pool_size=1, max_overflow=0, retry=RetryPolicy(attempts=1))
    await db.open()
    statement = {"postgresql": "select pg_sleep(20), :word", "mariadb": "select sleep(20), :word"}[backend.name]
    session = await db.fetch_value(_MY_ID[backend.name])

    async def lose(words: list[weakref.ref[_Word]]) -> None:
        word = _Word("kept?")
        words.append(weakref.ref(word))
        killer = threading.Timer(0.3, _kill, (backend, session))
        killer.start()
        with pytest.raises(PrefiqDbError):
            if way == "one-shot":
                await db.fetch_one(statement, {"word": word})
            else:
                async with db.transaction() as tx:
                    tx.on_rollback(lambda: str(word))
                    await tx.fetch_one(statement, {"word": word})
        killer.join()

    words: list[weakref.ref[_Word]] = []
    await lose(words)
    gc.collect()
    assert words[0]() is None


async def test_open_fills_the_pool(make_db: Any) -> None:
    """After open() all pool_size connections are there and idle."""
    db = make_db(pool_size=3)
    assert db.stats().pool.idle == 0, "there is no I/O before open()"
    await db.open()
    assert (db.stats().pool.idle, db.stats().pool.checked_out) == (3, 0)


@on_servers
async def test_open_is_content_with_one_connection(backend: Backend, world: str, harness: Harness) -> None:
    """When the server takes fewer connections than the pool would hold, open() keeps those it got."""
    assert backend.server is not None
    limit = {
        "postgresql": "alter role limited connection limit 1",
        "mariadb": "grant usage on *.* to limited@'%' with max_user_connections 1",
    }[backend.name]
    database = backend.url.rsplit("/", 1)[1].partition("?")[0]
    make, grant, drop = {
        "postgresql": ("create role limited login password 'x'", f"grant all on database {database} to limited", ""),
        "mariadb": ("create user limited@'%' identified by 'x'", f"grant all on {database}.* to limited@'%'", ""),
    }[backend.name]
    for statement in (make, grant, limit):
        backend.server.execute(statement)
    scheme = {"postgresql": "postgresql", "mariadb": "mariadb"}[backend.name]
    place = f"{backend.server.host}:{backend.server.port}"
    db = make_database(world, f"{scheme}://limited:x@{place}/{database}", pool_size=3)
    try:
        await db.open()
        assert db.stats().pool.idle == 1
        assert await db.fetch_value("select 1") == 1
    finally:
        await db.close()
        drop = {"postgresql": f"revoke all on database {database} from limited", "mariadb": "drop user limited@'%'"}
        backend.server.execute(drop[backend.name])
        if backend.name == "postgresql":
            backend.server.execute("drop role limited")


@on_servers
async def test_a_connection_killed_while_idle_costs_no_failed_call(make_db: Any, backend: Backend) -> None:
    """The socket is polled before use: even a write, which is never repeated, finds a fresh connection."""
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute("create table item (id integer primary key)")
    session = await db.fetch_value(_MY_ID[backend.name])
    _kill(backend, session)
    assert (await db.execute("insert into item (id) values (1)")).rowcount == 1
    assert await db.fetch_value(_MY_ID[backend.name]) != session
    assert db.stats().retry_count == 0, "it was healed before anything was sent"


@on_servers
async def test_control_without_the_poll_the_write_is_lost(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the look at the socket taken away, the same kill costs a call, and the write's fate is unknown."""
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute("create table item (id integer primary key)")
    _kill(backend, await db.fetch_value(_MY_ID[backend.name]))
    monkeypatch.setattr("prefiq_db.pool.vetting.is_readable", lambda descriptor: False)
    with pytest.raises(OutcomeUnknownError):
        await db.execute("insert into item (id) values (1)")


@on_servers
async def test_a_poll_costs_no_round_trip_and_a_ping_one(world: str, backend: Backend) -> None:
    """Within ping_after_idle_seconds the check is free; after it, the server is asked."""
    assert backend.server is not None
    trips = []
    with WireCounter(backend.server.host, backend.server.port) as wire:
        for seconds in (30.0, 0.0):
            options = {"ssl_mode": "disable", "pool_size": 1, "max_overflow": 0, "ping_after_idle_seconds": seconds}
            db = make_database(world, wire.url(backend.url), **options)
            await db.fetch_value("select 1")
            with wire.count() as counted:
                await db.fetch_value("select 1")
            trips.append(counted.round_trips)
            await db.close()
    assert trips == [1, 2]


def _engine_of(db: Any) -> Any:
    return getattr(db.engine, "sync_engine", db.engine)


def _idle(pool: Any) -> list[Any]:
    """Return the records that wait in the pool, a deque in one world and an asyncio.Queue in the other."""
    queue = pool._pool
    return list(queue.queue if hasattr(queue, "queue") else queue._queue._queue)


async def test_a_connection_past_its_age_is_replaced(make_db: Any, backend: Backend) -> None:
    """Ages have jitter, never more than the maximum, and an old connection is replaced when it is next asked for."""
    db = make_db(pool_size=4, pool_max_age_seconds=100)
    await db.open()
    pool = _engine_of(db).pool
    dialect = pool._dialect
    states: list[SessionState] = [dialect.session_in(record.info) for record in _idle(pool)]
    ages = [state.expires_at - state.last_used for state in states]
    assert len(ages) == 4
    assert all(85 < age <= 100 for age in ages)
    assert len({round(age, 6) for age in ages}) > 1, "all at once would reconnect all at once"
    for state in states:
        state.expires_at = 0.0
    assert await db.fetch_value("select 1") == 1


async def test_an_exhausted_pool_times_out_and_says_so(make_db: Any, harness: Harness) -> None:
    """The wait is bounded, the error is typed and names the numbers; afterwards the pool is whole."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=0.05)
    async with db.transaction() as tx:

        async def other() -> Any:
            return await db.using(timeout=5).fetch_value("select 1")

        (refused,) = await _from_elsewhere(harness, other)
        assert isinstance(refused, PoolTimeoutError)
        assert refused.kind is ErrorKind.POOL_TIMEOUT
        assert refused.is_transient
        await tx.fetch_value("select 1")
    assert await db.fetch_value("select 1") == 1


async def _from_elsewhere(harness: Harness, work: Callable[[], Any]) -> list[Any]:
    """Run *work* in a thread or task that did not inherit the transaction."""
    if harness.world == "sync":
        # threading.Thread starts with an empty context
        return await harness.together(work, return_exceptions=True)
    task = contextvars.Context().run(asyncio.ensure_future, work())
    return list(await asyncio.gather(task, return_exceptions=True))


async def test_a_database_that_was_closed_says_so(make_db: Any) -> None:
    """After close() a statement is refused; open() makes it work again."""
    db = make_db()
    await db.open()
    await db.close()
    with pytest.raises(ClosedError):
        await db.fetch_value("select 1")
    await db.open()
    assert await db.fetch_value("select 1") == 1


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
async def test_a_database_in_memory_is_one_for_all_connections(world: str, backend: Backend, harness: Harness) -> None:
    """Connections of one Database share it, two Databases don't, and it survives when the pool is empty."""
    db, stranger = make_database(world, "sqlite://", pool_size=2), make_database(world, "sqlite:///:memory:")
    await db.execute("create table item (id integer primary key)")
    # Another connection writes while a transaction is open: it waits its turn instead of failing.
    started = harness.event()

    async def first() -> None:
        async with db.transaction() as tx:
            await tx.execute("insert into item (id) values (1)")
            started.set()
            await tx.execute("insert into item (id) values (2)")

    async def second() -> None:
        await started.wait()
        await db.execute("insert into item (id) values (3)")

    await harness.together(first, second)
    assert await db.fetch_value("select count(*) from item") == 3
    assert await stranger.fetch_value("select count(*) from sqlite_master") == 0
    for record_owner in (db, stranger):
        await record_owner.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
async def test_a_forked_child_has_connections_of_its_own(make_db: Any, backend: Backend) -> None:
    """The child opens new ones, an inherited transaction is refused there, and the parent's go on undisturbed."""
    db = make_db(pool_size=1)
    await db.execute("create table item (id integer primary key)")
    async with db.transaction() as tx:
        await tx.execute("insert into item (id) values (1)")
        child = os.fork()
        if child == 0:
            os._exit(_in_child(db._wrapped, tx._wrapped, backend))
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - there is no loop in the sync world
        assert os.waitstatus_to_exitcode(status) == 0
        assert await tx.fetch_value("select count(*) from item") == 1
    assert await db.fetch_value("select count(*) from item") == 1


def _in_child(db: Database, tx: Any, backend: Backend) -> int:
    """Return the child's exit code: 0 when all is as promised."""
    try:
        try:
            tx.execute("insert into item (id) values (2)")
        except ForkError:
            pass
        else:
            return 3

        def use_own_connection() -> None:
            if backend.name != "sqlite":  # the parent holds SQLite's one write lock
                db.execute("create table from_child (id integer primary key)")
            assert db.fetch_value("select 1") == 1
            db.close()

        contextvars.Context().run(use_own_connection)
        gc.collect()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        return 4
    return 0


def test_another_event_loop_is_refused_with_a_reason(backend: Backend) -> None:
    """An AsyncDatabase belongs to the loop it was opened in; the error says so and what to do."""
    db = AsyncDatabase(backend.url)
    with asyncio.Runner() as first:
        first.run(db.open())
        with asyncio.Runner() as second, pytest.raises(EventLoopError, match="event loop"):
            second.run(db.fetch_value("select 1"))
        assert first.run(db.fetch_value("select 1")) == 1
        first.run(db.close())


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
async def test_a_sqlite_file_that_cannot_be_opened_is_a_failed_connect(world: str, backend: Backend) -> None:
    """A directory that doesn't exist: the same kind of error as a server that isn't there."""
    db = make_database(world, "sqlite:////nowhere/at/all.db")
    with pytest.raises(ConnectFailedError):
        await db.open()
    await db.close()
