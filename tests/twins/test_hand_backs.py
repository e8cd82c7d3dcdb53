"""What one user of a connection did is nobody else's business, and what can't work is refused before it half-works."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from prefiq_db import ErrorKind, PrefiqDbError, with_retry
from prefiq_db.errors import UsageError
from prefiq_db.events import ConnectionLeaked, Listener
from tests.conftest import Backend

_CHANGES = {
    "postgresql": [
        ("set statement_timeout = 0", "select current_setting('statement_timeout')"),
        ("set search_path to pg_catalog", "select current_setting('search_path')"),
        ("select pg_advisory_lock(77)", "select count(*) from pg_locks where locktype = 'advisory'"),
    ],
    "mariadb": [
        ("set session sql_mode = ''", "select @@sql_mode"),
        ("use mysql", "select database()"),
        ("select get_lock('prefiq_test', 1)", "select is_free_lock('prefiq_test')"),
    ],
    "sqlite": [("pragma foreign_keys = off", "pragma foreign_keys"), ("create temporary table t (a int)", None)],
}


async def test_a_changed_session_is_not_handed_on(make_db: Any, backend: Backend) -> None:
    """SET, USE, session locks and temporary tables in a transaction: the connection goes instead of coming back."""
    db = make_db(pool_size=1, max_overflow=0)
    for change, question in _CHANGES[backend.name]:
        look = question or "select count(*) from sqlite_temp_master"
        before = await db.fetch_value(look)
        async with db.transaction() as tx:
            await tx.execute(change)
        assert await db.fetch_value(look) == before, change
    assert db.stats().pool.lost["session changed"] == len(_CHANGES[backend.name])


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
async def test_set_local_keeps_the_connection(make_db: Any, backend: Backend) -> None:
    """What ends with the transaction by itself costs nothing."""
    db = make_db(pool_size=1, max_overflow=0)
    pid = await db.fetch_value("select pg_backend_pid()")
    async with db.transaction() as tx:
        await tx.execute("set local work_mem = '8MB'")
        await tx.fetch_value("select 1 for update")
    assert await db.fetch_value("select pg_backend_pid()") == pid


@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
async def test_a_coroutine_function_on_a_sync_database_is_refused(make_db: Any, world: str) -> None:
    """Its body would never run, and the empty transaction would commit."""
    db = make_db()._wrapped

    async def body(tx: Any) -> None:
        tx.execute("select 1")

    def generator(tx: Any) -> Any:
        yield tx.execute("select 1")

    for call in (lambda: db.run_in_transaction(body), lambda: db.run_in_transaction(generator)):
        with pytest.raises(UsageError, match=r"nothing of it was done|runs nothing of it"):
            call()
    with pytest.raises(UsageError, match="expected a plain function"):
        db.transactional(body)
    with pytest.raises(UsageError, match="runs nothing of it"):
        db.transactional(generator)


async def test_a_read_only_view_asks_the_server(make_db: Any, backend: Backend) -> None:
    """A SELECT may write through a function that a view hides; the server knows, and refuses."""
    if backend.name != "postgresql":
        return  # only there may a function that a view calls write
    db = make_db()
    await db.execute("create table item (id integer)")
    await db.execute("create function bump() returns int language sql as 'insert into item values (1) returning 1'")
    await db.execute("create view peek as select bump()")
    with pytest.raises(PrefiqDbError) as caught:
        await db.using(read_only=True).fetch_all("select * from peek")
    assert caught.value.kind is ErrorKind.READ_ONLY
    assert await db.fetch_value("select count(*) from item") == 0


async def test_a_lost_connection_is_no_leak(make_db: Any, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """A server that goes away in the middle is an error, and nothing was left lying around."""
    if backend.server is None:
        return  # SQLite has no connection to lose
    db, other = make_db(pool_size=1), make_db()
    leaks: list[Any] = []
    db.hooks.add(_LeakListener(leaks))
    my_id, kill = {
        "postgresql": ("select pg_backend_pid()", "select pg_terminate_backend(:id, 5000)"),
        "mariadb": ("select connection_id()", "kill :id"),
    }[backend.name]
    with pytest.raises(PrefiqDbError):
        async with db.transaction() as tx:
            await other.execute(kill, {"id": await tx.fetch_value(my_id)})
            await tx.fetch_value("select 1")
    gc.collect()
    assert leaks == []
    assert db.stats().leak_count == 0
    assert not [record for record in caplog.records if record.name == "prefiq_db.leaks"]


class _LeakListener(Listener):
    def __init__(self, leaks: list[Any]) -> None:
        self.leaks = leaks

    def connection_leaked(self, event: ConnectionLeaked) -> None:
        self.leaks.append(event)


async def test_the_first_statement_is_one_event_and_its_hook_may_use_the_database(make_db: Any) -> None:
    """What SQLAlchemy asks a new server is nobody's statement."""
    db = make_db(pool_size=2)
    heard: list[Any] = []
    db.hooks.after(heard.append)
    await db.fetch_value("select 1")
    assert len(heard) == db.stats().statement_count == 1


@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True)
async def test_on_commit_runs_as_the_one_who_committed(make_db: Any, world: str) -> None:
    """An outer transaction on another database is usable in it, in both worlds."""
    first, second = make_db(), make_db()
    async with second.transaction(read_only=True) as outer:
        await outer.fetch_value("select 1")
        async with first.transaction() as tx:

            async def callback() -> None:
                await second.fetch_value("select 5")

            tx.on_commit(callback)
        assert tx.callback_errors == ()


def test_with_retry_refuses_what_it_cannot_mean() -> None:
    """A kind by its name is a kind; anything else is refused when it is said, not at the first failure."""
    assert with_retry(lambda: 7, on="deadlock")() == 7  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="on:"):
        with_retry(lambda: 7, on="no such kind")  # type: ignore[call-overload]


async def test_booleans_are_booleans(make_db: Any) -> None:
    """read_only="no" would be true; it is refused."""
    db = make_db()
    for name in ("read_only", "durable"):
        with pytest.raises(UsageError, match=name):
            db.transaction(**{name: "no"})
    assert db.stats().pool.checked_out == 0
