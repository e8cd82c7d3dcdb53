"""Every verb in the async world; each test begins with one row and leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from conftest import item
from prefiq_db import AsyncDatabase, ErrorClass, ErrorKind
from prefiq_db.config import RetryPolicy
from prefiq_db.errors import (
    DeadlockError,
    ForeignKeyViolationError,
    PrefiqDbError,
    ReadOnlyError,
    StatementRefusedError,
    UniqueViolationError,
    UsageError,
)
from prefiq_db.reports import Outcome
from prefiq_db.testing import no_waits

pytestmark = pytest.mark.anyio


class Base(DeclarativeBase):
    pass


class Item(Base):
    __table__ = item.to_metadata(Base.metadata)


async def rows(db: AsyncDatabase) -> set[tuple[str, int]]:
    return {(row.sku, row.qty) for row in await db.fetch_all("select sku, qty from item")}


async def test_statements(async_db: AsyncDatabase) -> None:
    db = async_db
    assert await rows(db) == {("seed", 1)}
    assert (await db.execute(item.insert().values(sku="a", qty=1))).rowcount == 1
    given = [{"sku": "b", "qty": 2}, {"sku": "c", "qty": 3}]
    assert await db.execute_many("insert into item values (:sku, :qty)", given) == 2
    assert (await db.fetch_exactly_one("select qty from item where sku = 'c'")).qty == 3
    for _ in range(2):
        with pytest.raises(UniqueViolationError):
            await db.execute("insert into item values ('a', 1)")
    assert await db.fetch_value("select count(*) from item") == 4


async def test_many_rows(async_db: AsyncDatabase) -> None:
    db = async_db
    made = [(f"b{n}", n) for n in range(50)]
    assert (await db.bulk_insert("item", made, columns=["sku", "qty"])).row_count == 50
    given = [{"sku": "b1", "qty": 100}, {"sku": "new", "qty": 1}]
    upserted = await db.upsert("item", given, key=["sku"], returning=["sku", "qty"])
    assert {(row.sku, row.qty) for row in upserted.rows} == {("b1", 100), ("new", 1)}
    async with db.stream("select sku from item order by sku", batch_size=10) as stream:
        assert len([row async for row in stream]) == 52
    async with db.stream("select sku from item order by sku", batch_size=3) as stream:
        async for _ in stream:
            break
    assert await db.fetch_value("select count(*) from item") == 52


async def test_batch(async_db: AsyncDatabase) -> None:
    db = async_db
    await db.batch(["insert into item values ('a', 1)", "delete from item where sku = 'seed'"])
    with pytest.raises(UniqueViolationError):
        await db.batch(["insert into item values ('b', 1)", "insert into item values ('a', 1)"])
    await db.batch(["insert into item values ('c', 1)"], exactly_once=True)
    assert await rows(db) == {("a", 1), ("c", 1)}


async def test_transactions_are_outermost(async_db: AsyncDatabase) -> None:
    db, told = async_db, list[str]()
    async with db.transaction(exactly_once=True, durable=True, isolation="SERIALIZABLE", timeout=20) as tx:
        tx.on_commit(lambda: told.append("committed"))
        await db.execute("insert into item values ('a', 1)")
        with pytest.raises(ZeroDivisionError):
            async with db.transaction() as inner:
                await inner.execute("insert into item values ('b', 1)")
                raise ZeroDivisionError
        token = tx.token
    assert (tx.outcome, told) == (Outcome.COMMITTED, ["committed"])
    assert await db.resolve_outcome(token) is Outcome.COMMITTED
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as tx:
            await tx.execute("insert into item values ('c', 1)")
            raise ZeroDivisionError
    async with db.transaction() as tx:
        await tx.execute("delete from item")
        tx.rollback()
    async with db.transaction() as tx:
        await tx.execute("insert into item values ('last', 1)", last=True)
    assert await rows(db) == {("seed", 1), ("a", 1), ("last", 1)}


async def test_a_read_only_transaction_refuses_to_write(async_db: AsyncDatabase) -> None:
    db = async_db
    with pytest.raises(ReadOnlyError):
        async with db.transaction(read_only=True) as tx:
            await tx.execute("insert into item values ('a', 1)")
    async with db.transaction(read_only=True) as tx:
        await tx.fetch_value("select 1")
    await db.execute("insert into item values ('b', 1)")
    assert await rows(db) == {("seed", 1), ("b", 1)}


async def test_retries(async_db: AsyncDatabase) -> None:
    db, tries = async_db, list[int]()

    async def fails_twice(tx: Any) -> int:
        await tx.execute("insert into item values (:sku, 1)", {"sku": f"t{len(tries)}"})
        tries.append(1)
        if len(tries) < 3:
            again = ErrorClass(ErrorKind.DEADLOCK, transient=True, retry_transaction=True)
            raise DeadlockError("deadlock", classification=again)
        return len(tries)

    with no_waits():
        policy = RetryPolicy(wait_initial_seconds=1000, wait_max_seconds=1000, total_seconds=5000)
        assert await db.run_in_transaction(fails_twice, retry=policy, exactly_once=True) == 3
    async for attempt in db.attempts():
        async with attempt as tx:
            await tx.execute("insert into item values ('attempt', 1)")
    assert await rows(db) == {("seed", 1), ("t2", 1), ("attempt", 1)}


async def test_sqlalchemys_own_words(async_db: AsyncDatabase) -> None:
    db = async_db
    async with db.session() as session:
        session.add(Item(sku="a", qty=1))
        await session.commit()
        session.add(Item(sku="b", qty=1))
        await session.rollback()
    async with db.engine.begin() as connection:
        await connection.execute(item.insert().values(sku="c", qty=1))
    with pytest.raises(UsageError, match="db_committed"):
        await db.engine.raw_connection()
    assert await rows(db) == {("seed", 1), ("a", 1), ("c", 1)}


async def test_tasks_take_turns(async_db: AsyncDatabase) -> None:
    db = async_db

    async def sell(number: int) -> None:
        async with db.transaction() as tx:
            await tx.execute("insert into item values (:sku, 1)", {"sku": f"task {number}"})
            await asyncio.sleep(0)
            await tx.fetch_value("select count(*) from item")

    await asyncio.gather(*(sell(number) for number in range(8)))
    assert len(await rows(db)) == 9
    async with db.engine.connect():
        with pytest.raises(UsageError, match="db_committed"):
            await db.fetch_value("select 1")


async def test_health_and_overrides(async_db: AsyncDatabase) -> None:
    db = async_db
    await db.using(timeout=3).execute("insert into item values ('a', 1)")
    async with db.override(timeout=2), db.transaction():
        await db.execute("insert into item values ('b', 1)")
    assert await db.test_connection()
    assert (await db.health()).healthy
    assert len(await rows(db)) == 3


async def test_a_cancelled_transaction_is_undone(async_db: AsyncDatabase) -> None:
    db = async_db
    await db.execute("insert into item values ('a', 1)")
    begun = asyncio.Event()
    task = asyncio.create_task(db.run_in_transaction(_sleeps, begun))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rows(db) == {("seed", 1), ("a", 1)}


async def test_a_lost_connection_is_explained(async_db: AsyncDatabase) -> None:
    await async_db.execute("insert into item values ('a', 1)")
    async with async_db.engine.connect() as connection:
        await connection.invalidate()
    for _ in range(2):
        with pytest.raises(UsageError, match=r"its connection was closed.*db_committed"):
            await rows(async_db)


async def _sleeps(tx: Any, begun: asyncio.Event) -> None:
    await tx.execute("insert into item values ('b', 1)")
    begun.set()
    await asyncio.sleep(60)


@pytest.mark.databases("sqlite", "postgresql")
async def test_deferred_constraints_and_tables(async_db: AsyncDatabase) -> None:
    db = async_db
    with pytest.raises(ForeignKeyViolationError):
        async with db.transaction() as tx:
            await tx.execute("insert into part values (1, 'nobody')")
    await db.execute("create table made (id integer)")
    assert await db.fetch_value("select count(*) from made") == 0


@pytest.mark.databases("mariadb")
async def test_mariadb_would_commit_at_ddl(async_db: AsyncDatabase) -> None:
    with pytest.raises(StatementRefusedError, match="db_committed"):
        await async_db.execute("create table made (id integer)")
    with pytest.raises(PrefiqDbError):
        async with async_db.transaction() as tx:
            await tx.execute("create table made (id integer)")


async def test_committed(async_db_committed: AsyncDatabase) -> None:
    db = async_db_committed
    assert await rows(db) == {("seed", 1)}
    await db.execute("create table made (id integer)")
    await asyncio.gather(*(db.execute("insert into made values (:n)", {"n": n}) for n in range(5)))
    async with db.engine.connect() as connection:
        assert (await connection.execute(sa.text("select count(*) from made"))).scalar() == 5
