"""What type checkers know of rows and results; see ``faces.py`` for how this folder is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, assert_type

from pydantic import BaseModel
from sqlalchemy import Executable, Row, bindparam, column, func, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from prefiq_db import (
    Application,
    AsyncDatabase,
    AsyncTransaction,
    Database,
    ExecuteResult,
    RetryPolicy,
    Transaction,
    with_retry,
    with_retry_async,
)
from prefiq_db.reports import BulkResult, UpsertResult


class Base(DeclarativeBase): ...


class Stock(Base):
    __tablename__ = "stock"

    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]
    note: Mapped[str | None]


@dataclass
class Item:
    sku: str


class Model(BaseModel):
    sku: str


TWO = select(Stock.id, Stock.sku)
ONE = select(Stock.sku)


def label(row: Row[int, str]) -> Decimal:
    return Decimal(row[0])


def other(row: Row[str]) -> str:
    return row[0]


def shout(sku: str) -> bytes:
    return sku.upper().encode()


def sync_rows(db: Database | Transaction) -> None:
    assert_type(db.fetch_all(TWO), list[Row[int, str]])
    assert_type(db.fetch_one(TWO), Row[int, str] | None)
    assert_type(db.fetch_exactly_one(TWO), Row[int, str])
    assert_type(db.fetch_value(TWO), int | None)
    assert_type(db.fetch_value(ONE, {}), str | None)
    assert_type(db.fetch_value(select(Stock.note)), str | None)
    assert_type(db.fetch_value(select(func.count()).select_from(Stock)), int | None)
    assert_type(db.fetch_all(ONE.union_all(select(Stock.sku))), list[Row[str]])
    assert_type(db.fetch_one(insert(Stock).returning(Stock.id)), Row[int] | None)
    for number, sku in db.fetch_all(TWO):
        assert_type(number, int)
        assert_type(sku, str)
    sku = db.fetch_exactly_one(TWO).sku  # by name a row is untyped
    assert_type(sku, Any)


def sync_objects(db: Database | Transaction) -> None:
    assert_type(db.fetch_all(TWO, into=Item), list[Item])
    assert_type(db.fetch_one(TWO, into=Item), Item | None)
    assert_type(db.fetch_exactly_one(TWO, into=Item), Item)
    assert_type(db.fetch_all("select sku from stock", into=Model), list[Model])
    assert_type(db.fetch_one("select sku from stock", into=Model), Model | None)
    assert_type(db.fetch_exactly_one("select sku from stock", into=Model), Model)
    assert_type(db.fetch_all(TWO, into=dict), list[dict[str, Any]])
    assert_type(db.fetch_one("select 1", into=dict), dict[str, Any] | None)
    assert_type(db.fetch_exactly_one("select 1", into=dict[str, Any]), dict[str, Any])
    assert_type(db.fetch_all(TWO, into=label), list[Decimal])
    assert_type(db.fetch_one(TWO, into=label), Decimal | None)
    assert_type(db.fetch_exactly_one(TWO, into=label), Decimal)
    assert_type(db.fetch_all(TWO, into=lambda row: row[1]), list[str])
    assert_type(db.fetch_all(text("select 1, 'a'"), into=label), list[Decimal])
    assert_type(db.fetch_all("select 1, 'a'", into=lambda row: row), list[Row[*tuple[Any, ...]]])
    assert_type(db.fetch_value(ONE, into=shout), bytes | None)
    assert_type(db.fetch_value("select '1'", into=Decimal), Decimal | None)


def sync_text(db: Database | Transaction, statement: Executable, into: Callable[[Any], int]) -> None:
    assert_type(db.fetch_all("select 1"), list[Row[*tuple[Any, ...]]])
    assert_type(db.fetch_one(text("select 1")), Row[*tuple[Any, ...]] | None)
    assert_type(db.fetch_exactly_one(text("select 1").columns(column("a"))), Row[*tuple[Any, ...]])
    assert_type(db.fetch_all(statement), list[Row[*tuple[Any, ...]]])
    assert_type(db.fetch_all(ONE, into=into), list[int])
    assert_type(db.fetch_value("select 1"), Any)
    assert_type(db.execute(TWO), ExecuteResult)
    assert_type(db.execute_many(insert(Stock), [{"id": 1}]), int | None)
    assert_type(db.fetch_all(select(Stock.__table__)), list[Row[*tuple[Any, ...]]])
    db.fetch_all("select * from stock where id in :ids", {"ids": [1, 2]})
    db.fetch_all(ONE.where(Stock.id == bindparam("id")), {"id": 1})


async def async_rows(db: AsyncDatabase | AsyncTransaction) -> None:
    assert_type(await db.fetch_all(TWO), list[Row[int, str]])
    assert_type(await db.fetch_one(TWO), Row[int, str] | None)
    assert_type(await db.fetch_exactly_one(TWO), Row[int, str])
    assert_type(await db.fetch_value(TWO), int | None)
    assert_type(await db.fetch_value(ONE, {}), str | None)
    assert_type(await db.fetch_value(select(Stock.note)), str | None)
    assert_type(await db.fetch_value(select(func.count()).select_from(Stock)), int | None)
    assert_type(await db.fetch_all(ONE.union_all(select(Stock.sku))), list[Row[str]])
    assert_type(await db.fetch_one(insert(Stock).returning(Stock.id)), Row[int] | None)
    for number, sku in await db.fetch_all(TWO):
        assert_type(number, int)
        assert_type(sku, str)
    sku = (await db.fetch_exactly_one(TWO)).sku  # by name a row is untyped
    assert_type(sku, Any)


async def async_objects(db: AsyncDatabase | AsyncTransaction) -> None:
    assert_type(await db.fetch_all(TWO, into=Item), list[Item])
    assert_type(await db.fetch_one(TWO, into=Item), Item | None)
    assert_type(await db.fetch_exactly_one(TWO, into=Item), Item)
    assert_type(await db.fetch_all("select sku from stock", into=Model), list[Model])
    assert_type(await db.fetch_one("select sku from stock", into=Model), Model | None)
    assert_type(await db.fetch_exactly_one("select sku from stock", into=Model), Model)
    assert_type(await db.fetch_all(TWO, into=dict), list[dict[str, Any]])
    assert_type(await db.fetch_one("select 1", into=dict), dict[str, Any] | None)
    assert_type(await db.fetch_exactly_one("select 1", into=dict[str, Any]), dict[str, Any])
    assert_type(await db.fetch_all(TWO, into=label), list[Decimal])
    assert_type(await db.fetch_one(TWO, into=label), Decimal | None)
    assert_type(await db.fetch_exactly_one(TWO, into=label), Decimal)
    assert_type(await db.fetch_all(TWO, into=lambda row: row[1]), list[str])
    assert_type(await db.fetch_all(text("select 1, 'a'"), into=label), list[Decimal])
    assert_type(await db.fetch_all("select 1, 'a'", into=lambda row: row), list[Row[*tuple[Any, ...]]])
    assert_type(await db.fetch_value(ONE, into=shout), bytes | None)
    assert_type(await db.fetch_value("select '1'", into=Decimal), Decimal | None)


async def async_text(db: AsyncDatabase | AsyncTransaction, statement: Executable, into: Callable[[Any], int]) -> None:
    assert_type(await db.fetch_all("select 1"), list[Row[*tuple[Any, ...]]])
    assert_type(await db.fetch_one(text("select 1")), Row[*tuple[Any, ...]] | None)
    assert_type(await db.fetch_exactly_one(text("select 1").columns(column("a"))), Row[*tuple[Any, ...]])
    assert_type(await db.fetch_all(statement), list[Row[*tuple[Any, ...]]])
    assert_type(await db.fetch_all(ONE, into=into), list[int])
    assert_type(await db.fetch_value("select 1"), Any)
    assert_type(await db.execute(TWO), ExecuteResult)
    assert_type(await db.execute_many(insert(Stock), [{"id": 1}]), int | None)
    assert_type(await db.fetch_all(select(Stock.__table__)), list[Row[*tuple[Any, ...]]])
    await db.fetch_all("select * from stock where id in :ids", {"ids": [1, 2]})
    await db.fetch_all(ONE.where(Stock.id == bindparam("id")), {"id": 1})


def mistakes(db: Database, tx: Transaction) -> None:
    db.fetch_all(12)  # type: ignore[call-overload]
    db.fetch_all(Stock)  # type: ignore[call-overload]
    db.fetch_all(TWO, into="Item")  # type: ignore[call-overload]
    db.fetch_all(TWO, into=12)  # type: ignore[call-overload]
    db.fetch_all(TWO, into=other)  # type: ignore[arg-type]
    tx.fetch_one(TWO, into=shout)  # type: ignore[arg-type]
    tx.fetch_value(TWO, into=shout)  # type: ignore[arg-type]
    db.fetch_all("select 1", into=shout)  # type: ignore[arg-type]
    db.fetch_all(TWO, ["a"])  # type: ignore[call-overload]
    db.fetch_one(TWO, required=True)  # type: ignore[call-overload]
    print(db.fetch_one(TWO).sku)  # type: ignore[union-attr]
    number: int = db.fetch_value(TWO)  # type: ignore[assignment]
    item: Item = tx.fetch_one(TWO, into=Item)  # type: ignore[assignment]
    print(number, item)


async def mistakes_async(db: Database, async_db: AsyncDatabase, tx: AsyncTransaction) -> None:
    await db.fetch_all(TWO)  # type: ignore[misc]
    print(async_db.fetch_exactly_one(TWO).sku)  # type: ignore[attr-defined]
    await async_db.fetch_all(TWO, into="Item")  # type: ignore[call-overload]
    await tx.fetch_all(TWO, into=other)  # type: ignore[arg-type]
    number: int = await tx.fetch_value(TWO)  # type: ignore[assignment]
    print(number)


# --- functions that run in a transaction ---------------------------------------------------------


def move(tx: Transaction, sku: str, *, quantity: int = 1) -> int:
    return quantity


async def move_async(tx: AsyncTransaction, sku: str, *, quantity: int = 1) -> int:
    return quantity


def move_plain(tx: AsyncTransaction, sku: str, *, quantity: int = 1) -> bytes:
    return b""


def transactions(db: Database) -> None:
    assert_type(db.run_in_transaction(move, "A1"), int)
    assert_type(db.run_in_transaction(move, "A1", quantity=2), int)
    assert_type(db.run_in_transaction(move, "A1", quantity=2, exactly_once=True), int)
    assert_type(db.run_in_transaction(lambda tx: tx.fetch_all(TWO)), list[Row[int, str]])
    db.run_in_transaction(move)  # type: ignore[call-overload]
    db.run_in_transaction(move, 1)  # type: ignore[call-overload]
    db.run_in_transaction(move, "A1", amount=1)  # type: ignore[call-arg]
    db.run_in_transaction(move, "A1", exactly_once="yes")  # type: ignore[call-arg]
    db.run_in_transaction(move_async, "A1")  # type: ignore[call-overload]
    for attempt in db.attempts(isolation="SERIALIZABLE"):
        with attempt as tx:
            assert_type(tx, Transaction)
    with db.transaction() as tx, tx.transaction() as inner:
        assert_type(inner, Transaction)


async def transactions_async(db: AsyncDatabase) -> None:
    assert_type(await db.run_in_transaction(move_async, "A1", quantity=2), int)
    assert_type(await db.run_in_transaction(move_async, "A1", exactly_once=True, isolation="SERIALIZABLE"), int)
    assert_type(await db.run_in_transaction(move_plain, "A1"), bytes)
    assert_type(await db.run_in_transaction(move_plain, "A1", retry=RetryPolicy(attempts=1)), bytes)
    await db.run_in_transaction(move_async)  # type: ignore[call-overload]
    await db.run_in_transaction(move_async, 1)  # type: ignore[call-overload]
    await db.run_in_transaction(move_plain, 1)  # type: ignore[call-overload]
    await db.run_in_transaction(move, "A1")  # type: ignore[call-overload]
    assert_type(await db.transactional(move_plain)("A1"), bytes)
    assert_type(await db.transactional(exactly_once=True)(move_async)("A1", quantity=1), int)
    assert_type(await db.transactional(exactly_once=True)(move_plain)("A1"), bytes)
    db.transactional(exactly_once=True)(move)  # type: ignore[arg-type]
    for attempt in db.attempts(exactly_once=True):
        async with attempt as tx:
            assert_type(tx, AsyncTransaction)
    async for attempt in db.attempts():
        async with attempt as tx:
            assert_type(tx, AsyncTransaction)


@with_retry
def retried(sku: str) -> int:
    return 1


@with_retry_async(policy=RetryPolicy(attempts=2))
async def retried_async(sku: str) -> int:
    return 1


async def retries() -> None:
    assert_type(retried("A1"), int)
    assert_type(await retried_async("A1"), int)
    retried(1)  # type: ignore[arg-type]
    await retried_async(1)  # type: ignore[arg-type]


# --- many rows -----------------------------------------------------------------------------------


def many(db: Database, tx: Transaction) -> None:
    with db.stream(TWO) as rows:
        assert_type(next(rows), Row[int, str])
        for row in rows:
            assert_type(row, Row[int, str])
        for batch in rows.batches():
            assert_type(batch, list[Row[int, str]])
    with tx.stream("select 1", into=Item, batch_size=10) as items:
        for item in items:
            assert_type(item, Item)
    with db.stream(TWO, into=label) as labels:
        assert_type(next(labels), Decimal)
    with db.stream("select 1 as n", into=dict) as columns:
        assert_type(next(columns), dict[str, Any])
    db.stream(TWO, into=other)  # type: ignore[arg-type]
    assert_type(db.batch(["select 1", (TWO, None), ("select :n", {"n": 1})]), list[ExecuteResult])
    db.batch([1])  # type: ignore[list-item]
    assert_type(db.bulk_insert(Stock, [{"id": 1}]), BulkResult)
    db.bulk_insert(Stock, [{"id": 1}], on_conflict="replace")  # type: ignore[arg-type]
    assert_type(db.upsert(Stock, {"id": 1}, key="id"), UpsertResult)


async def many_async(db: AsyncDatabase, tx: AsyncTransaction) -> None:
    async with db.stream(TWO) as rows:
        async for row in rows:
            assert_type(row, Row[int, str])
        async for batch in rows.batches():
            assert_type(batch, list[Row[int, str]])
    async with tx.stream("select 1", into=Item) as items:
        async for item in items:
            assert_type(item, Item)
    assert_type(await db.batch(["select 1"]), list[ExecuteResult])
    assert_type(await tx.bulk_insert("stock", [(1,)], columns=["id"]), BulkResult)
    assert_type(await db.upsert(Stock, [{"id": 1}], key=Stock.id), UpsertResult)


# --- the container -------------------------------------------------------------------------------


def container(app: Application) -> None:
    assert_type(app.resolve("db", AsyncDatabase), AsyncDatabase)
    assert_type(app.resolve("db.analytics", Database), Database)
    assert_type(app.resolve("db"), Any)
    app.resolve("db", Database).fetch_al("select 1")  # type: ignore[attr-defined]
    app.resolve("db", "Database")  # type: ignore[call-overload]
