"""Behind pgbouncer in transaction mode: what travels in one message, and what must not stay for the next client."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import text

from prefiq_db import RetryPolicy
from prefiq_db.drivers import psycopg as driver
from prefiq_db.drivers import psycopg_cancels
from prefiq_db.errors import LockTimeoutError, OutcomeUnknownError, StatementRefusedError, StatementTimeoutError
from prefiq_db.testing import PgBouncer
from prefiq_db.testing.processes import wait_until
from tests.clusters import find
from tests.conftest import Backend
from tests.twins.support import on_engine
from tests.twins.test_round_trips import SlowCommits

pytestmark = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)


@pytest.fixture
def lender(backend: Backend) -> Iterator[PgBouncer]:
    """A pgbouncer with one session for everybody, in front of a database whose time zone is Kathmandu's."""
    assert backend.server is not None
    name = _name(backend)
    backend.server.execute(f"alter database \"{name}\" set timezone = 'Asia/Kathmandu'")
    with find("pgbouncer", PgBouncer, server=backend.server, pool_size=1) as made:
        yield made
    backend.server.execute(f'alter database "{name}" reset timezone')


@pytest.fixture
def make(backend: Backend, lender: PgBouncer, opened: Callable[..., Any]) -> Callable[..., Any]:
    usual = {"pgbouncer": True, "ssl_mode": "disable", "pool_size": 1, "max_overflow": 0}
    return lambda url="", **fields: opened(url or lender.url(_name(backend)), **{**usual, **fields})


def _name(backend: Backend) -> str:
    return backend.url.rpartition("/")[2]


def _others(lender: PgBouncer, backend: Backend) -> Any:
    """Return a connection of another program's, to the same session."""
    return closing(psycopg.connect(lender.url(_name(backend)), autocommit=True))


# --- one message ---------------------------------------------------------------------------------


async def test_a_statement_costs_one_round_trip(make: Any, lender: PgBouncer, backend: Backend) -> None:
    """By itself, with a time limit of its own, under a tenant's schema; a transaction of n costs n + 1, or n."""
    read, write = "select qty from item where id = 1", "update item set qty = qty + 1 where id = 1"
    with SlowCommits(lender.host, lender.port) as wire:
        db = make(wire.url(lender.url(_name(backend))))
        await db.execute("create table item (id integer primary key, qty integer)")
        await db.execute("insert into item values (1, 1)")
        await db.upsert("item", [{"id": 2, "qty": 1}], key="id")  # learns the table
        with wire.count() as count:
            # COMMIT of a read goes ahead of the next message: nobody waits for its reply.
            for view in (db, db.using(timeout=5), db.using(schema="public"), db.using(read_only=True)):
                await view.fetch_value(read)
            for view in (db, db.using(timeout=5), db.using(schema="public")):
                await view.execute(write)
            await db.upsert("item", [{"id": 2, "qty": 1}], key="id")
        assert count.round_trips == 8
        for last, expected in ((False, 3), (True, 2)):
            with wire.count() as count:
                async with db.transaction() as tx:
                    await tx.fetch_value(read)
                    await tx.execute(write, last=last)
            assert count.round_trips == expected
        assert await db.fetch_value(read) == 6


@pytest.mark.parametrize("how", ["message", "schema", "upsert"])
async def test_a_longer_limit_than_the_settings_holds_there_too(
    make: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A timeout of one's own replaces the settings' limit in a transaction of one statement, too."""
    assert backend.server is not None
    monkeypatch.setattr("prefiq_db.dialects.clocks.GRACE_SECONDS", 5)
    for statement in (
        "create table item (id integer primary key, qty integer)",
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.5); return new; end $$",
        "create trigger slows before insert on item for each row execute function slow()",
    ):
        backend.server.execute(statement, _name(backend))
    behind = how == "message"
    url = "" if behind else backend.server.url(_name(backend))
    db = make(url, pgbouncer=behind, statement_timeout_seconds=0.2, retry=RetryPolicy(attempts=1))
    view = db.using(timeout=30, schema="public") if how == "schema" else db.using(timeout=30)
    if how == "upsert":
        await view.upsert("item", [{"id": 1, "qty": 1}], key="id")
        assert await db.fetch_value("select count(*) from item") == 1
        return
    await view.execute("insert into item values (1, 1)")
    with pytest.raises(StatementTimeoutError):
        await db.execute("insert into item values (2, 1)")


async def test_the_limits_hold_at_the_server(make: Any, lender: PgBouncer, backend: Backend) -> None:
    """A write that is stopped there, or gets no lock, was certainly not done."""
    await _make_item(make)
    db = make(statement_timeout_seconds=1, lock_timeout_seconds=0.2, retry=RetryPolicy(attempts=1))
    with pytest.raises(StatementTimeoutError):
        await db.execute("update item set qty = 5 where pg_sleep(60) is not null")
    with _holding(backend), pytest.raises(LockTimeoutError):
        await db.execute("update item set qty = 5")
    with pytest.raises(StatementTimeoutError):
        await db.fetch_value("select 1 from pg_sleep(60)")
    with _holding(backend):
        for write in (
            sa.update(sa.table("item", sa.column("qty"))).values(qty=5),
            "insert into item values (2, 1)",
            "delete from item",
            "merge into item using (select 1 as id) as given on item.id = given.id when matched then delete",
        ):
            with pytest.raises(LockTimeoutError):
                await db.execute(write)
    assert await db.fetch_value("select qty from item") == 1


async def test_control_alone_nobody_knows(make: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BEGIN around it the statement has no limit there; the client gives up, and can't say what came of it."""
    await _make_item(make)
    monkeypatch.setattr("prefiq_db.core.statements.may_travel", lambda call, dialect: False)
    db = make(statement_timeout_seconds=1, lock_timeout_seconds=0.2, retry=RetryPolicy(attempts=1))
    with _holding(backend), pytest.raises(OutcomeUnknownError):
        await db.execute("update item set qty = 5")


async def _make_item(make: Any) -> None:
    db = make()
    await db.execute("create table item (id integer primary key, qty integer)")
    await db.execute("insert into item values (1, 1)")


def _holding(backend: Backend) -> Any:
    """Hold the lock of the table, on a connection to the server itself."""
    assert backend.server is not None
    holder = backend.server.connect(_name(backend))
    holder.execute("begin")
    holder.execute("lock table item in exclusive mode")
    return closing(holder)


_SLOW_DDL = "create table slow as select 1 as one from pg_sleep(60)"


@pytest.mark.parametrize("hangs_up_first", [False, True])
async def test_what_cannot_travel_is_stopped_when_the_client_gives_up(
    make: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch, hangs_up_first: bool
) -> None:
    """DDL goes alone. The cancel request comes before the end of the connection, however long it takes.

    The control hangs up first, as on a direct connection: pgbouncer then no longer knows what to cancel.
    """
    assert backend.server is not None
    server, name, cancel, cancelled = backend.server, _name(backend), psycopg_cancels._cancel, []

    def late(request: Any, seconds: float) -> None:
        time.sleep(0.5)
        cancel(request, seconds)
        cancelled.append(request)

    monkeypatch.setattr(psycopg_cancels, "_cancel", late)
    if hangs_up_first:
        for kind in (driver.Connection, driver.AsyncConnection):
            monkeypatch.setattr(kind, "is_lent", property(lambda self: False, lambda self, value: None))
    db = make(statement_timeout_seconds=0.5, retry=RetryPolicy(attempts=1))
    with pytest.raises(OutcomeUnknownError):
        await db.execute(_SLOW_DDL)
    running = (
        f"select pid from pg_stat_activity where datname = '{name}' and query = '{_SLOW_DDL}' and state = 'active'"
    )
    if hangs_up_first:
        assert wait_until(lambda: bool(cancelled), timeout_seconds=30)
        assert len(server.execute(running)) == 1
        server.execute(f"select pg_terminate_backend(pid) from ({running}) as found")
    assert wait_until(lambda: not server.execute(running), timeout_seconds=30)
    assert wait_until(lambda: bool(cancelled), timeout_seconds=30)


# --- what would stay for the next client ---------------------------------------------------------

_STAYS = [
    ("set search_path to pg_catalog", "SET LOCAL"),
    ("set session work_mem = '1MB'", "SET LOCAL"),
    ("select set_config('search_path', 'pg_catalog', false)", "set_config"),
    ("create temporary table passing (id integer)", "ON COMMIT DROP"),
    ("select pg_advisory_lock(1)", "pg_advisory_xact_lock"),
    ("listen something", "connect to the server itself"),
    ("declare c cursor with hold for select 1", "stream"),
]


@pytest.mark.parametrize(("statement", "instead"), _STAYS)
async def test_what_would_stay_is_refused(make: Any, statement: str, instead: str) -> None:
    """In a transaction, and on connections of the engine; the error says what to use."""
    db = make()
    async with db.transaction() as tx:
        with pytest.raises(StatementRefusedError, match=instead):
            await tx.execute(statement)
        assert await tx.fetch_value("select 1") == 1, "nothing was sent"
    with pytest.raises(StatementRefusedError, match=instead):
        await on_engine(db, lambda connection: connection.execute(text(statement)))
    assert await on_engine(db, lambda connection: connection.scalar(text("select 1"))) == 1


async def test_what_ends_with_the_transaction_is_not(make: Any, lender: PgBouncer, backend: Backend) -> None:
    db = make()
    async with db.transaction() as tx:
        await tx.execute("set local search_path to pg_catalog")
        await tx.execute("select set_config('work_mem', '1MB', true)")
        await tx.execute("create temporary table passing (id integer) on commit drop")
        await tx.execute("select pg_advisory_xact_lock(1)")
    with _others(lender, backend) as other:
        assert other.execute("show search_path").fetchone() == ('"$user", public',)
        assert other.execute("select count(*) from pg_locks where locktype = 'advisory'").fetchone() == (0,)


async def test_control_it_does_stay(
    make: Any, lender: PgBouncer, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let through, the search path of one client is the next one's: a tenant's rows in another one's table."""
    monkeypatch.setattr("prefiq_db.transaction.scope.refuse_behind_pooler", lambda facts: None)
    async with make().transaction() as tx:
        await tx.execute("set search_path to pg_catalog")
    with _others(lender, backend) as other:
        assert other.execute("show search_path").fetchone() == ("pg_catalog",)


# --- time zone and formats -----------------------------------------------------------------------


async def test_an_instant_is_read_as_it_is_whatever_others_set(make: Any, lender: PgBouncer, backend: Backend) -> None:
    """On the session before it, another program has set its time zone and its style of dates for itself."""
    noon = dt.datetime(2024, 7, 1, 12, tzinfo=dt.UTC)
    db = make()
    await db.execute("create table moment (at timestamp with time zone, local timestamp, day date)")
    with _others(lender, backend) as other:
        for zone, style in (("America/New_York", "German"), ("Asia/Tokyo", "SQL, DMY"), ("UTC", "Postgres, MDY")):
            other.execute(f"set timezone = '{zone}'")
            other.execute(f"set datestyle = '{style}'")
            await db.execute("delete from moment")
            other.execute("select 1")  # the session has its settings again
            # psycopg sends an instant as one, so the server's zone decides about the column without one.
            await db.execute("insert into moment values (:at, :at, :at)", {"at": noon})
            other.execute("select 1")
            row = await db.fetch_one("select at, local, day, cast(local as text) as written from moment")
            other.execute("select 1")
            async with db.transaction() as tx:
                assert await tx.fetch_one("select at, local, day, cast(local as text) as written from moment") == row
            assert (row.at, row.local, row.day) == (noon, noon.replace(tzinfo=None), noon.date())
            assert row.written == "2024-07-01 12:00:00"
            other.execute("select 1")
            alone = await on_engine(
                db,
                lambda connection: connection.execute(text("select at, cast(at as text) from moment")).one(),
                isolation_level="AUTOCOMMIT",
            )
            assert tuple(alone) == (noon, "2024-07-01 12:00:00+00")
            assert other.execute("select to_char(current_timestamp, 'TZ')").fetchone() != ("+0545",)
            assert other.execute("show timezone").fetchone() == (zone,)
