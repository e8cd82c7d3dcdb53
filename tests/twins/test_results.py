"""What a verb gives is what type checkers are told: one row that must be there, and rows of ORM classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Bundle, DeclarativeBase, Mapped, aliased, mapped_column

from prefiq_db.errors import ErrorKind, MappingError, PrefiqDbError, RowNotFoundError, TooManyRowsError, UsageError
from tests.twins.support import assert_silent

T = TypeVar("T")


class Base(DeclarativeBase): ...


class Item(Base):
    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str] = mapped_column(sa.String(20))


@dataclass
class Line:
    id: int
    sku: str


@dataclass
class Boxed(Generic[T]):
    id: T
    sku: str


async def filled(db: Any) -> Any:
    await db.execute("create table item (id integer primary key, sku varchar(20) not null)")
    await db.execute_many(sa.insert(Item), [{"id": 1, "sku": "A1"}, {"id": 2, "sku": "B2"}])
    return db


# --- exactly one row -----------------------------------------------------------------------------


async def test_the_only_row_is_given(db: Any) -> None:
    """As a row, by into= and with types=; for text and Core; outside, inside, and on tx."""
    await filled(db)
    core, sql = sa.select(Item.id, Item.sku).where(Item.id == 1), "select id, sku from item where id = :id"

    async def check(verb: Callable[..., Any]) -> None:
        assert await verb(core) == (1, "A1")
        assert (await verb(sql, {"id": 2})).sku == "B2"
        assert await verb(core, into=Line) == Line(1, "A1")
        assert await verb(sql, {"id": 2}, into=dict) == {"id": 2, "sku": "B2"}
        assert await verb(sql, {"id": 1}, into=lambda row: row.sku.lower()) == "a1"
        assert await verb("select '1.50' as price", types={"price": sa.Text}) == ("1.50",)

    await check(db.fetch_exactly_one)
    async with db.transaction() as tx:
        await check(tx.fetch_exactly_one)
        await check(db.fetch_exactly_one)
    assert db.stats().pool.checked_out == 0


async def test_no_row_is_an_error_of_its_own(db: Any) -> None:
    """It is no error of the database: nothing is repeated, and a transaction that swallows it goes on."""
    await filled(db)
    runs = []
    for into in (None, Line, dict):
        with pytest.raises(RowNotFoundError, match="gave no row") as failure:
            await db.fetch_exactly_one("select id, sku from item where sku = :sku", {"sku": "planted"}, into=into)
        assert failure.value.kind is ErrorKind.NOT_FOUND
        assert not failure.value.is_transient
        assert failure.value.__context__ is None
        assert_silent(failure.value, "planted")

    async def look(tx: Any) -> None:
        runs.append(tx)
        await tx.execute(sa.insert(Item), {"id": 3, "sku": "C3"})
        await tx.fetch_exactly_one(sa.select(Item.id).where(Item.sku == "planted"))

    with pytest.raises(RowNotFoundError):
        await db.run_in_transaction(look)
    assert len(runs) == 1
    assert await db.fetch_value("select count(*) from item") == 2
    async with db.transaction() as tx:
        await tx.execute(sa.insert(Item), {"id": 3, "sku": "C3"})
        with pytest.raises(RowNotFoundError):
            await tx.fetch_exactly_one("select id from item where id = 9")
        assert tx.outcome == "active"
    assert await db.fetch_exactly_one("select count(*) from item") == (3,)
    assert db.stats().retry_count == 0
    with pytest.raises(RowNotFoundError):
        await db.fetch_exactly_one("delete from item where id = 9")  # it gives no rows at all


async def test_a_second_row_is_an_error_too(db: Any) -> None:
    """Nothing of it stays on the connection; what the statement did is done."""
    await filled(db)
    many = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 900) select i, 'planted' from n"
    for into in (None, dict):
        with pytest.raises(TooManyRowsError, match="more than one row") as failure:
            await db.fetch_exactly_one(many, into=into)
        assert failure.value.kind is ErrorKind.DATA
        assert_silent(failure.value, "planted")
    assert db.stats().pool.checked_out == 0
    async with db.transaction() as tx:
        with pytest.raises(TooManyRowsError):
            await tx.fetch_exactly_one(many)
        assert await tx.fetch_exactly_one("select count(*) from item") == (2,)
    with pytest.raises(TooManyRowsError):
        await db.fetch_exactly_one("delete from item returning id")
    assert await db.fetch_value("select count(*) from item") == 0


# --- rows of ORM classes -------------------------------------------------------------------------


async def test_a_whole_orm_class_is_refused(db: Any) -> None:
    """SQLAlchemy's types promise objects for it, and only a session makes them."""
    await filled(db)
    before = db.stats().statement_count
    other = aliased(Item)
    for statement in (
        sa.select(Item),
        sa.select(Item.id, Item),
        sa.select(other),
        sa.select(Item).union_all(sa.select(Item)),
        sa.select(Bundle("both", Item.id, Item.sku)),
        sa.insert(Item).values(id=3, sku="C3").returning(Item),
    ):
        for call in (
            lambda statement=statement: db.fetch_all(statement),
            lambda statement=statement: db.fetch_one(statement),
            lambda statement=statement: db.fetch_exactly_one(statement),
            lambda statement=statement: db.fetch_value(statement),
            lambda statement=statement: db.fetch_value(statement, into=str),
            lambda statement=statement: db.fetch_all(statement, into=lambda row: row[0]),
        ):
            with pytest.raises(UsageError, match="a whole ORM class"):
                await call()
    for options in ({}, {"into": lambda row: row[0]}):
        with pytest.raises(UsageError, match="a whole ORM class"):
            db.stream(sa.select(Item), **options)
    async with db.transaction() as tx:
        with pytest.raises(UsageError, match="a whole ORM class"):
            await tx.fetch_all(sa.select(Item))
    assert db.stats().statement_count == before


async def test_what_is_left_of_orm_classes_is_what_its_types_say(db: Any) -> None:
    """Columns of a class, functions of them, its table, and by name: a dataclass, a model, dict."""
    await filled(db)
    by_id = sa.select(Item).order_by(Item.id)
    assert await db.fetch_all(by_id, into=Line) == [Line(1, "A1"), Line(2, "B2")]
    assert await db.fetch_all(by_id, into=Boxed[int]) == [Boxed(1, "A1"), Boxed(2, "B2")]
    for into in (dict, dict[str, Any]):
        assert await db.fetch_one(by_id, into=into) == {"id": 1, "sku": "A1"}
    assert await db.fetch_all(sa.select(Item.sku).order_by(Item.id)) == [("A1",), ("B2",)]
    assert await db.fetch_value(sa.select(sa.func.count()).select_from(Item)) == 2
    assert await db.fetch_value(sa.select(sa.func.max(Item.sku))) == "B2"
    assert await db.fetch_all(sa.select(Item.__table__).order_by(Item.id)) == [(1, "A1"), (2, "B2")]
    assert (await db.execute(sa.select(Item.__table__))).rows == [(1, "A1"), (2, "B2")]
    async with db.session() as session:
        assert [each.sku for each in (await session.scalars(by_id)).all()] == ["A1", "B2"]
    with pytest.raises(MappingError):
        await db.fetch_all(sa.select(Item.id), into=Boxed[int])


async def test_control_sqlalchemy_gives_columns(db: Any) -> None:
    """Control: on a Core connection the whole class is its columns, without a word."""
    await filled(db)
    with pytest.raises(PrefiqDbError):
        await db.fetch_all(sa.select(Item))
    async with db.transaction() as tx:
        result = tx.connection.execute(sa.select(Item).order_by(Item.id))
        rows = result if isinstance(result, sa.CursorResult) else await result
        assert [tuple(row) for row in rows] == [(1, "A1"), (2, "B2")]
