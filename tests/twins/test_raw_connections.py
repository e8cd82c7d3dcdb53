"""What db.engine gives to those who work below SQLAlchemy, and below us."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, engine_from_config, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from prefiq_db.engine_class import PrefiqEngine
from prefiq_db.errors import TransactionEndedError, UnsupportedError, UsageError
from tests.conftest import Backend
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, on_sync_engine


@pytest.fixture
def make_stock(make_db: Callable[..., Any]) -> Callable[[], Any]:
    async def make() -> Any:
        db = make_db(pool_size=1, max_overflow=0)
        await db.execute(CREATE_STOCK)
        return db

    return make


_INSERT = "insert into stock (id, quantity) values ({}, 1)"


def _insert(raw: Any, number: int) -> None:
    cursor = raw.cursor()
    cursor.execute(_INSERT.format(number))
    cursor.close()


def _work_half_committed(engine: Engine) -> None:
    raw = engine.raw_connection()
    _insert(raw, 1)
    raw.rollback()
    _insert(raw, 2)
    raw.commit()
    _insert(raw, 3)
    raw.close()


async def test_a_raw_connection_is_in_a_transaction_of_the_drivers(make_stock: Any) -> None:
    """rollback() undoes, commit() keeps, close() without commit() keeps nothing: as PEP 249 says."""
    db = await make_stock()
    await on_sync_engine(db, _work_half_committed)
    assert [row.id for row in await db.fetch_all("select id from stock")] == [2]
    await db.execute("delete from stock")
    await on_sync_engine(db, lambda engine: _work_half_committed(engine.execution_options(logging_token="mine")))
    assert [row.id for row in await db.fetch_all("select id from stock")] == [2]


async def test_a_raw_connection_comes_back_as_it_was(make_stock: Any) -> None:
    """The next user's one-shot is committed by itself, on the very same connection."""
    db = await make_stock()
    await on_sync_engine(db, _work_half_committed)
    await db.execute("insert into stock (id, quantity) values (10, 1)")
    async with db.transaction() as tx:
        await tx.execute("insert into stock (id, quantity) values (11, 1)")
    assert await db.fetch_value("select count(*) from stock where id >= 10") == 2
    stats = db.stats().pool
    assert (stats.opened_count, dict(stats.lost)) == (1, {})


async def test_half_of_a_failed_pair_does_not_stay(make_stock: Any) -> None:
    """What a library does between raw_connection() and an error is undone as a whole."""
    db = await make_stock()

    def pair(engine: Engine) -> None:
        raw = engine.raw_connection()
        try:
            _insert(raw, 1)
            _insert(raw, 1)
        finally:
            raw.close()

    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        await on_sync_engine(db, pair)
    assert await db.fetch_value(COUNT_STOCK) == 0


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
async def test_the_drivers_commit_does_not_lie(make_stock: Any) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK after a failed statement, and psycopg alone says nothing of it."""
    db = await make_stock()

    def work(engine: Engine) -> None:
        raw = engine.raw_connection()
        try:
            _insert(raw, 1)
            with contextlib.suppress(psycopg.errors.UniqueViolation):
                _insert(raw, 1)
            raw.commit()
        finally:
            raw.close()

    with pytest.raises(Exception, match="rolled back"):
        await on_sync_engine(db, work)
    assert await db.fetch_value(COUNT_STOCK) == 0


async def test_control_on_the_plain_pools_connection_half_stays(
    make_stock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handed out as the pool has it, in autocommit, the same work leaves what was rolled back."""
    db = await make_stock()
    monkeypatch.setattr(PrefiqEngine, "raw_connection", Engine.raw_connection)
    await on_sync_engine(db, _work_half_committed)
    assert [row.id for row in await db.fetch_all("select id from stock order by id")] != [2]


@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("sqlite", "mariadb")],
    indirect=True,
)
@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
async def test_an_engine_on_our_raw_connections(make_stock: Any, backend: Backend) -> None:
    """create_engine(creator=db.engine.raw_connection): begin() commits, connect() doesn't. psycopg's dialect can't."""
    db = await make_stock()
    url = {"sqlite": "sqlite://", "mariadb": "mariadb+pymysql://"}[backend.name]
    engine = create_engine(url, creator=db.engine.raw_connection)
    with engine.begin() as connection:
        connection.execute(text("insert into stock (id, quantity) values (1, 1)"))
    with engine.connect() as connection:
        connection.execute(text("insert into stock (id, quantity) values (2, 1)"))
    engine.dispose()
    assert [row.id for row in await db.fetch_all("select id from stock")] == [1]


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
async def test_copy_through_a_raw_connection(make_stock: Any) -> None:
    """COPY is a transaction like any other work: kept by commit() only."""
    db = await make_stock()
    for commits in (False, True):
        raw = db.engine.raw_connection()
        with raw.cursor() as cursor, cursor.copy("copy stock (id, quantity) from stdin") as copy:
            for number in range(100):
                copy.write_row((number, 1))
        if commits:
            raw.commit()
        raw.close()
        assert await db.fetch_value(COUNT_STOCK) == (100 if commits else 0)


async def test_the_drivers_own_commit_in_a_transaction_is_no_commit_of_ours(make_stock: Any) -> None:
    """What comes next is not carried out on its own, and nobody is told that the block was committed."""
    db = await make_stock()
    tx = db.transaction()
    with pytest.raises(TransactionEndedError):
        async with tx:
            await tx.execute("insert into stock (id, quantity) values (1, 1)")
            await on_connection(tx, lambda connection: connection.connection.commit())
            await tx.execute("insert into stock (id, quantity) values (2, 1)")
    assert str(tx.outcome) == "unknown"
    assert [row.id for row in await db.fetch_all("select id from stock")] == [1]


async def test_the_drivers_own_commit_in_an_engines_block(make_stock: Any) -> None:
    """An engine's connection goes on in a new transaction, as on a driver that is not in autocommit."""
    db = await make_stock()

    def work(engine: Engine) -> None:
        with engine.connect() as connection:
            connection.execute(text("insert into stock (id, quantity) values (1, 1)"))
            connection.connection.commit()
            connection.execute(text("insert into stock (id, quantity) values (2, 1)"))
            connection.rollback()

    await on_sync_engine(db, work)
    assert [row.id for row in await db.fetch_all("select id from stock")] == [1]


async def test_an_engine_made_of_our_engines_url_is_refused(make_stock: Any) -> None:
    """It would have no password, no limits and no set-up; each of the usual ways says so at once."""
    db = await make_stock()
    url = db.engine.url
    make = create_async_engine if isinstance(db.engine, AsyncEngine) else create_engine
    with pytest.raises(UsageError, match=r"db\.engine"):
        make(url)
    with pytest.raises(UsageError, match=r"db\.engine"):
        engine_from_config({"sqlalchemy.url": str(url)})


async def on_connection(tx: Any, work: Callable[[Any], Any]) -> None:
    """Run *work* on the pinned connection of either world's transaction."""
    connection = tx.connection
    if hasattr(connection, "run_sync"):
        await connection.run_sync(work)
    else:
        work(connection)


_PG = pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)


async def test_what_somebody_sets_on_a_raw_connection_nobody_inherits(make_stock: Any, backend: Backend) -> None:
    """A row factory of somebody's own would make the next verb's answer another one."""
    db = await make_stock()
    await db.execute("insert into stock (id, quantity) values (7, 1)")

    def work(engine: Engine) -> None:
        raw = engine.raw_connection()
        driver: Any = raw.driver_connection
        if backend.name == "sqlite":
            driver.row_factory = lambda cursor, row: ("mine",)
        elif backend.name == "postgresql":
            driver.row_factory = psycopg.rows.dict_row
        else:
            driver.cursorclass = driver._cursor_cls = object
        raw.close()

    if backend.name == "mariadb" and db.is_async:
        work = _sets_asyncmys_cursor
    await on_sync_engine(db, work)
    assert await db.fetch_value("select id from stock") == 7
    assert dict(db.stats().pool.lost) == {"session changed": 1}


def _sets_asyncmys_cursor(engine: Engine) -> None:
    raw = engine.raw_connection()
    raw.driver_connection._cursor_cls = object  # type: ignore[union-attr]
    raw.close()


@_PG
@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
async def test_a_commit_in_an_open_pipeline_is_refused(make_stock: Any) -> None:
    """Nobody would hear that the server refuses it; nothing of it stays, and nothing is told to be committed."""
    db = await make_stock()
    await db.execute("create table part (id integer references stock (id) deferrable initially deferred)")
    tx = db._wrapped.transaction()
    with pytest.raises(UsageError, match="pipeline"), tx:
        pipeline = tx.connection.connection.driver_connection.pipeline()
        pipeline.__enter__()
        tx.execute("insert into part (id) values (-1)")
    assert str(tx.outcome) == "not committed"
    assert await db.fetch_value("select count(*) from part") == 0


@_PG
async def test_a_raw_connection_of_a_read_only_database_behind_a_pooler(make_db: Any) -> None:
    """There our own BEGIN says READ ONLY, so the driver's must say it too."""
    await make_db().execute(CREATE_STOCK)
    db = make_db(pgbouncer=True, read_only=True, pool_size=1, max_overflow=0)

    def write(engine: Engine) -> None:
        with contextlib.closing(engine.raw_connection()) as raw:
            _insert(raw, 1)
            raw.commit()

    with pytest.raises(Exception, match="read-only"):
        await on_sync_engine(db, write)
    assert await db.fetch_value(COUNT_STOCK) == 0
    assert dict(db.stats().pool.lost) == {}


@pytest.mark.parametrize("by", ["connection", "session"])
async def test_two_phase_transactions_work_or_are_refused_by_name(make_stock: Any, backend: Backend, by: str) -> None:
    """MariaDB has them; the others say so before anything is written."""
    db, work = await make_stock(), {"connection": _two_phases, "session": _two_phases_of_a_session}[by]
    if backend.name == "mariadb":
        await on_sync_engine(db, work)
        assert await db.fetch_value(COUNT_STOCK) == 1
        return
    with pytest.raises(UnsupportedError, match="two-phase transactions: ") as caught:
        await on_sync_engine(db, work)
    assert isinstance(caught.value, SQLAlchemyError)
    assert await db.fetch_value(COUNT_STOCK) == 0


def _two_phases(engine: Engine) -> None:
    with engine.connect() as connection:
        for number, keep in ((1, True), (2, False)):
            both = connection.begin_twophase()
            connection.exec_driver_sql(_INSERT.format(number))
            both.prepare()
            both.commit() if keep else both.rollback()


def _two_phases_of_a_session(engine: Engine) -> None:
    with Session(engine, twophase=True) as session:
        for number, keep in ((1, True), (2, False)):
            session.connection().exec_driver_sql(_INSERT.format(number))
            session.commit() if keep else session.rollback()


_MANY_STEPS = """
with recursive t(n) as (select 1 union all select n + 1 from t where n < 20000) select count(*) from t
"""


def _count_below(connection: Any) -> int:
    cursor = connection.cursor()
    cursor.execute(_MANY_STEPS)
    (count,) = cursor.fetchone()
    cursor.close()
    return int(count)


def _work_late(engine: Engine) -> None:
    for way in ("raw", "engine"):
        with engine.connect() as connection:
            connection.execute(text("select 1")).all()
            if way == "engine":
                time.sleep(_LIMIT_SECONDS * 1.5)  # the limit of that statement has passed
                assert _count_below(connection.connection) == 20_000
        if way == "raw":
            time.sleep(_LIMIT_SECONDS * 1.5)
            raw = engine.raw_connection()
            assert _count_below(raw) == 20_000
            raw.close()


_LIMIT_SECONDS = 0.4


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
async def test_the_limit_of_an_earlier_statement_stops_no_later_one(make_db: Callable[..., Any]) -> None:
    """SQLite's clock of the last statement ran on, and interrupted what the driver did later."""
    db = make_db(pool_size=1, max_overflow=0, statement_timeout_seconds=_LIMIT_SECONDS)
    await on_sync_engine(db, _work_late)
