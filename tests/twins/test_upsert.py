"""``upsert()``: rows that are there are updated, others inserted, the same on each database, all or nothing."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from prefiq_db.errors import (
    ErrorKind,
    NotNullViolationError,
    PrefiqDbError,
    ReadOnlyError,
    SchemaError,
    StatementRefusedError,
    UniqueViolationError,
    UnsupportedError,
    UsageError,
)
from prefiq_db.events import CallFinished, Listener, StatementFinished
from prefiq_db.execution import upsert_request
from prefiq_db.types import ExactDecimal, Json, UtcDateTime
from tests.conftest import Backend
from tests.twins.support import assert_silent, in_engine_begin

meta = sa.MetaData()
item = sa.Table(
    "item",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(40), nullable=False, unique=True),
    sa.Column("ean", sa.String(40), unique=True),
    sa.Column("qty", sa.Integer, nullable=False, default=1),
    sa.Column("old_qty", sa.Integer),
    sa.Column("note", sa.String(40)),
    sa.Column("touched", sa.Integer, nullable=False, default=0, server_default="0", onupdate=sa.literal_column("99")),
)
price = sa.Table(
    "price",
    meta,
    sa.Column("region", sa.String(10), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("amount", sa.Integer),
)


@pytest.fixture
def store(db: Any, backend: Backend, world: str, loop_runner: Any) -> Any:
    from tests.twins.harness import drive

    (loop_runner.run if world == "async" else drive)(in_engine_begin(db, meta.create_all))
    return db


async def stored(db: Any, *columns: str) -> list[tuple[Any, ...]]:
    chosen = [item.c[name] for name in columns or ("sku", "qty")]
    return [tuple(row) for row in await db.fetch_all(sa.select(*chosen).order_by(item.c.id))]


# --- what it does --------------------------------------------------------------------------------


async def test_one_row_is_inserted_and_then_updated(store: Any) -> None:
    first = await store.upsert(item, {"sku": "A", "qty": 3}, key="sku", returning=["id", "qty"])
    second = await store.upsert(item, {"sku": "A", "qty": 5}, key="sku", returning=["id", "qty"])
    same = await store.upsert(item, {"sku": "A", "qty": 5}, key=item.c.sku)
    assert (first.row_count, first.inserted, first.updated) == (1, 1, 0)
    assert (second.inserted, second.updated) == (0, 1)
    assert (same.inserted, same.updated, same.rows) == (0, 1, ())
    assert first.rows[0].id == second.rows[0].id
    assert [first.rows[0].qty, second.rows[0].qty] == [3, 5]
    assert await stored(store, "sku", "qty", "touched") == [("A", 5, 99)]


async def test_many_rows_come_back_in_their_order(store: Any) -> None:
    await store.upsert(item, [{"sku": "M", "qty": 1}, {"sku": "C", "qty": 2}], key="sku")
    rows = [{"sku": name, "qty": number} for number, name in enumerate("ZMACX")]
    result = await store.upsert(item, rows, key="sku", returning=[item.c.qty, "sku", "qty"])
    assert [tuple(row) for row in result.rows] == [(number, name, number) for number, name in enumerate("ZMACX")]
    assert (result.row_count, result.inserted, result.updated) == (5, 3, 2)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    stock_number: Mapped[str] = mapped_column("sku", unique=True)
    qty: Mapped[int]


@dataclasses.dataclass
class Given:
    sku: str
    qty: int


class Model(pydantic.BaseModel):
    sku: str
    qty: int


async def test_rows_of_every_kind(store: Any) -> None:
    for rows in (Given("A", 1), [Given("A", 2)], Model(sku="A", qty=3), (Model(sku="A", qty=4),)):
        result = await store.upsert(item, rows, key=["sku"], returning="qty")
    assert [row.qty for row in result.rows] == [4]
    assert await stored(store) == [("A", 4)]


async def test_an_orm_class_and_its_attributes(store: Any) -> None:
    await store.upsert(item, {"sku": "A", "qty": 2}, key="sku")
    result = await store.upsert(
        Item,
        [{"stock_number": "A", "qty": 3}],
        key=Item.stock_number,
        update={Item.qty: Item.qty + 10},
        returning=[Item.stock_number, Item.qty],
    )
    assert (result.inserted, [tuple(row) for row in result.rows]) == (0, [("A", 12)])


async def test_a_table_by_name_knows_the_keys_of_the_database(store: Any) -> None:
    for quantity in (1, 2):
        await store.upsert("item", {"sku": "A", "qty": quantity, "touched": 0}, key="sku")
    async with store.transaction() as tx:
        await tx.upsert("price", {"region": "eu", "number": 1, "amount": 5}, key=("number", "region"))
    assert await stored(store) == [("A", 2)]
    with pytest.raises(SchemaError, match="there is no table nothing"):
        await store.upsert("nothing", {"sku": "A"}, key="sku")


async def test_a_key_that_only_the_table_object_has_is_an_error(store: Any) -> None:
    """On MariaDB, whose statement names no key, the rows would be inserted again and again."""
    other = sa.Table(
        "price", sa.MetaData(), sa.Column("region", sa.String(10)), sa.Column("amount", sa.Integer, unique=True),
        sa.Column("number", sa.Integer),
    )  # fmt: skip
    row = {"region": "eu", "number": 1, "amount": 5}
    with pytest.raises(PrefiqDbError) as caught:
        await store.upsert(other, row, key="amount")
    assert caught.value.kind in (ErrorKind.USAGE, ErrorKind.SCHEMA, ErrorKind.SYNTAX)
    await store.execute("create unique index price_amount on price (amount)")
    assert (await store.upsert(other, row, key="amount")).inserted == 1


async def test_a_table_that_was_made_anew_is_looked_at_again(store: Any, backend: Backend) -> None:
    """A key that is gone, or a table that no longer tells new rows, is an error once, and known from then on."""
    await store.execute("create table late (id integer primary key, n integer unique)")
    await store.upsert("late", {"id": 1, "n": 1}, key="n")
    await store.execute("drop table late")
    if backend.name == "postgresql":
        await store.execute("create table late (id integer primary key, n integer) partition by range (id)")
        await store.execute("create table late_1 partition of late default")
    else:
        await store.execute("create table late (id integer primary key, n integer)")
    if backend.name == "mariadb":
        return  # there a lost key is not seen until the table is forgotten
    with pytest.raises(PrefiqDbError):
        await store.upsert("late", {"id": 1, "n": 1}, key="n")
    with pytest.raises(UsageError, match=r"\(n\) is no unique key of late"):
        await store.upsert("late", {"id": 1, "n": 1}, key="n")
    assert (await store.upsert("late", {"id": 1, "n": 1}, key="id")).row_count == 1


async def test_a_key_of_two_columns(store: Any) -> None:
    rows = [{"region": region, "number": number, "amount": 1} for region in ("eu", "us") for number in (1, 2)]
    await store.upsert(price, rows[:3], key=[price.c.number, price.c.region])
    result = await store.upsert(price, rows, key=["region", "number"], update={"amount": 7}, returning="amount")
    assert (result.inserted, result.updated) == (1, 3)
    assert [row.amount for row in result.rows] == [7, 7, 7, 1]


async def test_no_rows_are_no_statement(store: Any) -> None:
    sent = Sent()
    store.hooks.add(sent)
    result = await store.upsert(item, [], key="sku")
    assert (result.row_count, result.inserted, result.updated, result.rows) == (0, 0, 0, ())
    assert sent.statements == []


# --- update --------------------------------------------------------------------------------------


async def test_an_expression_sees_the_stored_and_the_given_row(store: Any) -> None:
    """As in standard SQL, every expression sees the row as it was, in whatever order columns are assigned."""
    await store.upsert(item, [{"sku": "A", "qty": 3}, {"sku": "B", "qty": 4}], key="sku")
    result = await store.upsert(
        item,
        [{"sku": "B", "qty": 10}, {"sku": "A", "qty": 20}, {"sku": "C", "qty": 30}],
        key="sku",
        update={
            "qty": lambda stored, given: stored.qty + given.qty,
            "old_qty": item.c.qty,
            "note": "seen",
            "touched": lambda stored, given: stored.touched + 1,
        },
        returning=["qty", "old_qty", "note", "touched"],
    )
    assert [tuple(row) for row in result.rows] == [(14, 4, "seen", 1), (23, 3, "seen", 1), (30, None, None, 0)]


async def test_values_in_expressions_leave_one_statement(store: Any, backend: Backend) -> None:
    """SQLAlchemy would send a statement for each row if an expression had a bind without a value."""
    await store.upsert(item, {"sku": "A", "qty": 1}, key="sku")
    sent = Sent()
    store.hooks.add(sent)
    update = {
        "qty": lambda stored, given: sa.func.coalesce(sa.literal(None, sa.Integer), stored.qty + given.qty + 5),
        "note": sa.literal(None, sa.String),
        "old_qty": None,
    }
    rows = [{"sku": "B", "qty": 1}, {"sku": "A", "qty": 1}]
    result = await store.upsert(item, rows, key="sku", update=update, returning=["qty"])
    assert [row.qty for row in result.rows] == [1, 7]
    assert len([each for each in sent.statements if each.startswith("INSERT")]) == 1
    for expression in (item.c.qty + sa.bindparam("lost"), item.c.qty + sum(sa.literal(n) for n in range(30))):
        with pytest.raises(UsageError, match="update: the expression for qty has"):
            await store.upsert(item, rows, key="sku", update={"qty": expression})


@pytest.mark.mariadb
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
async def test_an_update_takes_mariadbs_last_id(store: Any) -> None:
    """As docs/guide/upsert.md says: 0 after a row that was there, also where nothing of it was updated."""
    async with store.transaction() as tx:
        await tx.upsert(item, {"sku": "A", "qty": 1}, key="sku")
        for number, update in enumerate((None, ())):
            await tx.execute("insert into item (sku, qty) values (:sku, 1)", {"sku": f"B{number}"})
            assert await tx.fetch_value("select last_insert_id()") > 0
            await tx.upsert(item, {"sku": "A", "qty": 2}, key="sku", update=update)
            assert await tx.fetch_value("select last_insert_id()") == 0


async def test_columns_that_need_each_others_old_value(store: Any, backend: Backend) -> None:
    """MariaDB assigns one after the other, so there it is refused; elsewhere the values are swapped."""
    await store.upsert(item, {"sku": "A", "qty": 3, "old_qty": 8}, key="sku")
    swap = {"qty": item.c.old_qty, "old_qty": item.c.qty}
    if backend.name == "mariadb":
        with pytest.raises(UnsupportedError, match="old_qty and qty need each other's old value"):
            await store.upsert(item, {"sku": "A", "qty": 1}, key="sku", update=swap)
    else:
        await store.upsert(item, {"sku": "A", "qty": 1}, key="sku", update=swap)
        assert await stored(store, "qty", "old_qty") == [(8, 3)]


async def test_nothing_is_updated_when_update_is_empty(store: Any) -> None:
    await store.upsert(item, {"sku": "B", "qty": 1}, key="sku")
    rows = [{"sku": "A", "qty": 5}, {"sku": "B", "qty": 6}]
    result = await store.upsert(item, rows, key="sku", update=(), returning=["sku", "qty"])
    assert [tuple(row) for row in result.rows] == [("A", 5), ("B", 1)]
    assert (result.inserted, result.updated) == (1, 0)
    again = await store.upsert(item, rows, key="sku", update=[])
    assert (again.inserted, again.updated) == (0, 0)
    assert await stored(store, "sku", "qty", "touched") == [("B", 1, 0), ("A", 5, 0)]


async def test_rows_of_key_columns_alone_update_nothing(store: Any) -> None:
    for _ in range(2):
        result = await store.upsert(price, {"region": "eu", "number": 1}, key=["region", "number"])
    assert (result.inserted, result.updated) == (0, 0)


async def test_defaults_made_in_python_and_onupdate(db: Any) -> None:
    """A default fills what the rows leave out, one value for each; onupdate counts where a row is updated."""
    counter = iter(range(1, 100))
    made = sa.Table(
        "made",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, default=lambda: next(counter)),
        sa.Column("word", sa.String(10), default="new", onupdate=lambda: "changed"),
        sa.Column("qty", sa.Integer),
    )
    await in_engine_begin(db, made.metadata.create_all)
    await db.upsert(made, [{"id": 1, "qty": 1}, {"id": 2, "qty": 1}], key="id")
    await db.upsert(made, [{"id": 2, "qty": 2}, {"id": 3, "qty": 2}], key="id")
    await db.upsert(made, {"id": 1, "qty": 3}, key="id", update=())
    rows = await db.fetch_all(sa.select(made).order_by(made.c.id))
    assert [tuple(row) for row in rows] == [(1, 1, "new", 1), (2, 2, "changed", 2), (3, 4, "new", 2)]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


async def test_portable_types_are_stored_as_insert_stores_them(db: Any) -> None:
    typed = sa.Table(
        "typed",
        sa.MetaData(),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("at", UtcDateTime()),
        sa.Column("amount", ExactDecimal(12, 3)),
        sa.Column("doc", Json()),
        sa.Column("colour", sa.Enum(Colour)),
        sa.Column("raw", sa.LargeBinary(20)),
    )
    await in_engine_begin(db, typed.metadata.create_all)
    at = dt.datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=dt.UTC)
    one = {"at": at, "amount": Decimal("0.105"), "doc": {"a": [1, None]}, "colour": Colour.RED, "raw": b"\0'\xff"}
    two = {"at": at, "amount": Decimal("-7.250"), "doc": [], "colour": Colour.BLUE, "raw": b""}
    days = [dt.date(2026, 1, 1), dt.date(2026, 1, 2)]
    for rows in ([one, two], [two, one]):
        given = [{"day": day, **row} for day, row in zip(days, rows, strict=True)]
        result = await db.upsert(typed, given, key="day", returning=typed.c)
        assert [dict(row._mapping) for row in result.rows] == given
        assert [dict(row._mapping) for row in await db.fetch_all(sa.select(typed).order_by(typed.c.day))] == given
        assert (result.inserted is None) is False
    single = await db.upsert(typed, {"day": days[0], **one}, key="day", returning=["amount", "doc"])
    assert tuple(single.rows[0]) == (Decimal("0.105"), {"a": [1, None]})


# --- what is refused before anything is sent -----------------------------------------------------


class Sent(Listener):
    def __init__(self) -> None:
        self.statements: list[str] = []
        self.calls: list[CallFinished] = []

    def statement_finished(self, event: StatementFinished) -> None:
        self.statements.append(event.statement or "")

    def call_finished(self, event: CallFinished) -> None:
        self.calls.append(event)


ROW = {"sku": "A", "qty": 1}
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no such key": (
        ROW,
        {"key": "qty"},
        r"\(qty\) is no unique key of item; .* primary key \(id\) and \(ean\) and \(sku",
    ),
    "part of a key": (ROW, {"key": ["sku", "id"]}, "is no unique key"),
    "no such column as key": (ROW, {"key": "frog"}, "key: item has no column frog; it has id, sku"),
    "key not given": ({"qty": 1}, {"key": "sku"}, "the key column sku has to be given"),
    "None in the key": ([ROW, {"sku": None, "qty": 1}], {"key": "sku"}, r"rows\[1\]: the key column sku is None"),
    "the same key twice": ([ROW, {"sku": "B", "qty": 1}, ROW], {"key": "sku"}, r"rows\[2\]: .* as rows\[0\]"),
    "differing rows": ([ROW, {"sku": "B"}], {"key": "sku"}, r"rows\[1\]: .*qty"),
    "an unknown column": ({**ROW, "frog": 1}, {"key": "sku"}, "item has no column frog"),
    "an update of what isn't given": (ROW, {"key": "sku", "update": ["note"]}, "the rows don't give note"),
    "an update of no column": (ROW, {"key": "sku", "update": {"frog": 1}}, "update: item has no column frog"),
    "a returning of no column": (ROW, {"key": "sku", "returning": ["frog"]}, "returning: item has no column frog"),
    "no rows at all": (7, {"key": "sku"}, "rows: expected"),
    "a key of no kind": (ROW, {"key": 7}, "key: expected the names of columns"),
}


async def test_what_is_wrong_is_said_before_anything_is_sent(store: Any) -> None:
    sent = Sent()
    store.hooks.add(sent)
    for rows, options, words in REFUSED.values():
        with pytest.raises(UsageError, match=words):
            await store.upsert(item, rows, **options)
    assert sent.statements == []


async def test_a_bad_value_is_named_by_row_and_column(store: Any) -> None:
    """Nothing of the call is stored, and the error has the place but not the value."""

    class Secret:
        def __repr__(self) -> str:
            return "canary"

    rows: list[dict[str, Any]] = [{"sku": f"S{number}", "qty": number} for number in range(5)]
    rows[3]["qty"] = Secret()
    with pytest.raises(UsageError, match=r"rows\[3\]: column qty: a value of type Secret") as caught:
        await store.upsert(item, rows, key="sku")
    assert_silent(caught.value, "canary")
    assert await stored(store) == []


async def test_a_row_that_the_database_refuses_undoes_all(store: Any) -> None:
    await store.upsert(item, {"sku": "A", "qty": 1}, key="sku")
    for update in (None, (), {"qty": 5}):
        with pytest.raises(NotNullViolationError):
            await store.upsert(
                item, [{"sku": "A", "qty": 2}, {"sku": "B", "qty": None}], key="sku", update=update, returning="qty"
            )
    assert await stored(store) == [("A", 1)]


# --- keys that only the database takes for the same ----------------------------------------------


async def test_keys_that_the_database_takes_for_the_same(db: Any, backend: Backend) -> None:
    """A collation that ignores case: refused with nothing changed, on every database that has one."""
    collation = {"sqlite": "NOCASE", "mariadb": "utf8mb4_general_ci"}.get(backend.name)
    if collation is None:
        await db.execute("create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        collation = "nocase"
    word = sa.Table(
        "word",
        sa.MetaData(),
        sa.Column("word", sa.String(20, collation=collation), primary_key=True),
        sa.Column("n", sa.Integer),
    )
    await in_engine_begin(db, word.metadata.create_all)
    await db.upsert(word, [{"word": "a", "n": 1}, {"word": "b", "n": 1}], key="word")
    for pair in (("x", "X"), ("A", "a"), ("Ä", "ä")):
        if backend.name == "sqlite" and not pair[0].isascii():
            continue  # SQLite knows only the case of ASCII
        with pytest.raises(UsageError, match="two of them have the same key"):
            await db.upsert(word, [{"word": each, "n": 5} for each in pair], key="word")
    result = await db.upsert(word, {"word": "A", "n": 7}, key="word", returning=["word", "n"])
    assert (result.inserted, tuple(result.rows[0])) == (0, ("a", 7))
    result = await db.upsert(word, [{"word": "B", "n": 8}, {"word": "A", "n": 9}], key="word", returning=["word", "n"])
    assert [tuple(row) for row in result.rows] == [("b", 8), ("a", 9)]
    result = await db.upsert(word, [{"word": "B", "n": 0}, {"word": "C", "n": 0}], key="word", update=(), returning="n")
    assert [row.n for row in result.rows] == [8, 0]


async def test_numbers_given_as_texts(db: Any, backend: Backend) -> None:
    """SQLite and MariaDB make the same number of "1" and "01"; PostgreSQL's driver is told the type, and refuses."""
    number = sa.Table(
        "number", sa.MetaData(), sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("n", sa.Integer)
    )
    await in_engine_begin(db, number.metadata.create_all)
    with pytest.raises(PrefiqDbError) as caught:
        await db.upsert(number, [{"id": "1", "n": 1}, {"id": "01", "n": 2}], key="id")
    assert backend.name == "postgresql" or "two of them have the same key" in str(caught.value)
    assert await db.fetch_all(sa.select(number)) == []


async def test_whole_numbers_that_a_column_rounds_to_the_same(db: Any) -> None:
    level = sa.Table(
        "level", sa.MetaData(), sa.Column("at", sa.Float(53), primary_key=True), sa.Column("n", sa.Integer)
    )
    await in_engine_begin(db, level.metadata.create_all)
    with pytest.raises(UsageError, match="two of them have the same key"):
        await db.upsert(level, [{"at": 2**53, "n": 1}, {"at": 2**53 + 1, "n": 2}], key="at")
    assert await db.fetch_all(sa.select(level)) == []
    result = await db.upsert(level, [{"at": 2**53, "n": 1}, {"at": 2, "n": 2}], key="at", returning="n")
    assert [row.n for row in result.rows] == [1, 2]


# --- another unique key --------------------------------------------------------------------------


async def test_another_unique_key_is_an_error_with_nothing_changed(store: Any) -> None:
    """MariaDB's own form would update the row with that ean."""
    await store.upsert(item, [{"sku": "A", "ean": "1", "qty": 1}, {"sku": "B", "ean": "2", "qty": 2}], key="sku")
    before = await stored(store, *item.c.keys())
    bad = {"sku": "C", "ean": "1", "qty": 9}
    updates: tuple[Any, ...] = (None, (), {"qty": 9})
    for rows, update in itertools.product((bad, [{"sku": "D", "ean": "4", "qty": 9}, bad]), updates):
        with pytest.raises(UniqueViolationError) as caught:
            await store.upsert(item, rows, key="sku", update=update)
        assert caught.value.table == "item"
        assert not caught.value.is_transient
    assert await stored(store, *item.c.keys()) == before


# --- transactions --------------------------------------------------------------------------------


async def test_it_joins_the_transaction(store: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.transaction() as tx:
            await store.upsert(item, {"sku": "A", "qty": 1}, key="sku")
            await tx.upsert(
                item, [{"sku": "B", "qty": 1}, {"sku": "A", "qty": 2}], key="sku", update=(), returning="qty"
            )
            assert await stored(tx) == [("A", 1), ("B", 1)]
            1 / 0  # noqa: B018
    assert await stored(store) == []


async def test_many_statements_fail_as_one(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the last statement's last row undoes them all, and a transaction around them goes on."""
    monkeypatch.setattr(upsert_request, "MOST_ROWS", 100)
    rows = [{"sku": f"S{number}", "ean": f"E{number}", "qty": number} for number in range(300)]
    rows.append({"sku": "late", "ean": "E5", "qty": 1})
    with pytest.raises(UniqueViolationError):
        await store.upsert(item, rows, key="sku")
    assert await stored(store) == []
    async with store.transaction() as tx:
        await tx.upsert(item, {"sku": "A", "qty": 1}, key="sku")
        with pytest.raises(UniqueViolationError):
            await tx.upsert(item, rows, key="sku")
        await tx.upsert(item, {"sku": "B", "qty": 1}, key="sku")
    assert await stored(store) == [("A", 1), ("B", 1)]
    result = await store.upsert(item, rows[:-1], key="sku", returning="qty")
    assert (result.inserted, [row.qty for row in result.rows]) == (300, list(range(300)))


async def test_long_values_go_in_several_statements(store: Any) -> None:
    text = sa.Table("long", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("t", sa.Text()))
    await in_engine_begin(store, text.metadata.create_all)
    sent = Sent()
    store.hooks.add(sent)
    rows = [{"id": number, "t": "x" * 60_000} for number in range(1, 21)]
    result = await store.upsert(text, rows, key="id")
    assert result.inserted == 20
    inserts = [each for each in sent.statements if each.startswith("INSERT")]
    assert len(inserts) == 3


async def test_it_is_one_call_and_one_statement(store: Any, backend: Backend) -> None:
    """A listener sees one call; the servers get one statement for many rows, except SQLite, which looks first."""
    await store.upsert(item, {"sku": "A", "qty": 1}, key="sku")  # PostgreSQL was asked for the kind of table
    sent = Sent()
    store.hooks.add(sent)
    await store.upsert(item, [{"sku": "A", "qty": 1}, {"sku": "B", "qty": 1}], key="sku", returning="id")
    assert [(call.verb, call.attempts) for call in sent.calls] == [("upsert", 1)]
    assert len(sent.statements) == (2 if backend.name == "sqlite" else 1)


async def test_read_only_holds(store: Any) -> None:
    with pytest.raises(ReadOnlyError):
        await store.using(read_only=True).upsert(item, ROW, key="sku")
    with pytest.raises(ReadOnlyError):
        async with store.transaction(read_only=True) as tx:
            await tx.upsert(item, ROW, key="sku")
    async with store.transaction():
        with pytest.raises(StatementRefusedError):
            await store.using(read_only=True).upsert(item, ROW, key="sku")


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
async def test_what_a_partitioned_table_does_not_tell(db: Any) -> None:
    """PostgreSQL has no word for new rows there: the counts are unknown, and everything else is as always."""
    await db.execute("create table part (id integer primary key, qty integer) partition by range (id)")
    await db.execute("create table part_1 partition of part for values from (0) to (100)")
    for known in (None, None):
        result = await db.upsert("part", [{"id": 2, "qty": 1}, {"id": 1, "qty": 2}], key="id", returning="qty")
        assert (result.row_count, result.inserted, result.updated) == (2, known, known)
        assert [row.qty for row in result.rows] == [1, 2]
    ignored = await db.upsert("part", [{"id": 2, "qty": 9}, {"id": 3, "qty": 9}], key="id", update=(), returning="qty")
    assert (ignored.inserted, [row.qty for row in ignored.rows]) == (1, [1, 9])


@pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
async def test_a_server_without_returning(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MySQL: rows are read back under a lock in the same transaction; who was new is unknown."""
    monkeypatch.setattr(store.engine.dialect, "insert_returning", False)
    await store.upsert(item, [{"sku": "B", "ean": "2", "qty": 1}, {"sku": "A", "ean": "1", "qty": 2}], key="sku")
    rows = [{"sku": "C", "ean": "3", "qty": 5}, {"sku": "A", "ean": "4", "qty": 6}]
    result = await store.upsert(item, rows, key="sku", returning=["sku", "qty"])
    assert (result.row_count, result.inserted, result.updated) == (2, None, None)
    assert [tuple(row) for row in result.rows] == [("C", 5), ("A", 6)]
    single = await store.upsert(item, {"sku": "a", "qty": 9}, key="sku", update=(), returning=["qty"])
    assert [tuple(row) for row in single.rows] == [(6,)]
    with pytest.raises(UniqueViolationError):
        await store.upsert(item, [{"sku": "X", "ean": "9", "qty": 1}, {"sku": "Y", "ean": "2", "qty": 1}], key="sku")
    assert sorted(await stored(store)) == [("A", 6), ("B", 1), ("C", 5)]


@pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
async def test_a_failed_upsert_leaves_no_mark_for_the_next(make_db: Callable[..., Any]) -> None:
    """MariaDB's session remembers how the guard marked a row; the next call must not take it for its own."""
    db = make_db(pool_size=1, max_overflow=0)
    await in_engine_begin(db, meta.create_all)
    await db.upsert(item, [{"sku": "A", "ean": "1", "qty": 1}, {"sku": "B", "ean": "2", "qty": 1}], key="sku")
    with pytest.raises(UniqueViolationError):
        await db.upsert(item, {"sku": "A", "ean": "2", "qty": 1}, key="sku")
    result = await db.upsert(item, {"sku": "C", "qty": 1}, key="sku")
    assert (result.inserted, result.updated) == (1, 0)
    # An application that seeds Python's random numbers must not get the same mark again.
    random.seed(1)
    with pytest.raises(UniqueViolationError):
        await db.upsert(item, {"sku": "A", "ean": "2", "qty": 1}, key="sku")
    random.seed(1)
    result = await db.upsert(item, {"sku": "D", "qty": 1}, key="sku")
    assert (result.inserted, result.updated) == (1, 0)


async def test_errors_are_of_one_tree(store: Any) -> None:
    with pytest.raises(PrefiqDbError) as caught:
        await store.upsert(item, {"sku": "canary" * 20, "qty": 1}, key="sku", returning="frog")
    assert_silent(caught.value, "canary")
