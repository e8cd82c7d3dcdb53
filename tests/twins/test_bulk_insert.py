"""bulk_insert() stores any rows as insert() stores them, all or nothing, and names a row that can't be stored."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import random
import uuid
from collections import namedtuple
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped

from prefiq_db.errors import (
    CheckViolationError,
    DataError,
    ForeignKeyViolationError,
    NotNullViolationError,
    PrefiqDbError,
    ReadOnlyError,
    SchemaError,
    UniqueViolationError,
    UsageError,
)
from prefiq_db.types import ExactDecimal, Json, Money, StrEnum, UtcDateTime, Uuid
from tests.conftest import Backend
from tests.twins.support import in_engine_begin
from tests.twins.test_canary import VALUE, Collected, collected  # noqa: F401 - a fixture

METADATA = sa.MetaData()
SHOP = sa.Table("shop", METADATA, sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))
ITEM = sa.Table(
    "item",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", sa.String(20), nullable=False, unique=True),
    sa.Column("qty", sa.Integer),
    sa.Column("shop_id", sa.ForeignKey("shop.id", name="fk_shop")),
    sa.CheckConstraint("qty >= 0", name="ck_qty"),
)


class Base(DeclarativeBase):
    pass


class OrmItem(Base):
    __table__ = ITEM
    number: Mapped[int] = ITEM.c.id
    code: Mapped[str] = ITEM.c.sku


@dataclasses.dataclass
class DataItem:
    id: int
    sku: str
    qty: int


class ModelItem(pydantic.BaseModel):
    id: int
    sku: str
    qty: int


async def create(db: Any, metadata: sa.MetaData = METADATA) -> Any:
    await in_engine_begin(db, metadata.create_all)
    return db


def rows(start: int, end: int, **fixed: Any) -> list[dict[str, Any]]:
    return [{"id": n, "sku": f"S{n}", "qty": n % 7, **fixed} for n in range(start, end)]


async def count(db: Any) -> int:
    return int(await db.fetch_value("select count(*) from item"))


async def content(db: Any) -> list[Any]:
    return [tuple(row) for row in await db.fetch_all("select id, sku, qty from item order by id")]


# --- what is given -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "given", "columns"),
    [
        (ITEM, rows(0, 40), None),
        ("item", rows(0, 40), None),
        (OrmItem, [{"number": n, "code": f"S{n}", "qty": n % 7} for n in range(40)], None),
        (ITEM, [DataItem(n, f"S{n}", n % 7) for n in range(40)], None),
        (ITEM, [ModelItem(id=n, sku=f"S{n}", qty=n % 7) for n in range(40)], None),
        (ITEM, [(f"S{n}", n % 7, n) for n in range(40)], ["sku", "qty", "id"]),
    ],
    ids=["mappings", "name", "orm", "dataclasses", "models", "tuples"],
)
async def test_tables_and_rows_of_every_kind(db: Any, table: Any, given: Any, columns: Any) -> None:
    await create(db)
    for each in (given[:1], iter(given[1:])):
        result = await db.bulk_insert(table, each, columns=columns)
        assert (result.updated, result.ignored) == (0, 0)
    assert result.row_count == result.inserted == 39
    assert await content(db) == [(n, f"S{n}", n % 7) for n in range(40)]


async def test_rows_of_queries_are_taken_by_their_names(db: Any) -> None:
    await create(db)
    await db.bulk_insert(ITEM, rows(0, 3))
    given = await db.fetch_all("select id + 10 as id, replace(sku, 'S', 'a') as sku, qty from item order by id")
    given += await db.fetch_all("select qty, replace(sku, 'S', 'b') as sku, id + 20 as id from item order by id")
    assert (await db.bulk_insert(ITEM, given)).inserted == 6
    assert (await db.upsert(ITEM, given, key="id")).row_count == 6
    assert (await db.upsert(ITEM, given[0], key="id")).row_count == 1
    wanted = [(n, f"S{n}", n) for n in range(3)]
    assert await content(db) == wanted + [(n + 10, f"a{n}", q) for n, _, q in wanted] + [
        (n + 20, f"b{n}", q) for n, _, q in wanted
    ]
    with pytest.raises(UsageError, match=r"rows\[1\]: it lacks sku"):
        await db.bulk_insert(ITEM, [given[0], await db.fetch_one("select 1 as id, 2 as qty")])


async def test_named_tuples_are_taken_by_their_names(db: Any) -> None:
    await create(db)
    one, other = namedtuple("one", "id sku qty"), namedtuple("other", "qty sku id")
    await db.bulk_insert(ITEM, [one(1, "a", 5), other(6, "b", 2)])
    assert await content(db) == [(1, "a", 5), (2, "b", 6)]


async def test_no_rows_are_no_statement(db: Any) -> None:
    result = await db.bulk_insert(ITEM, iter([]))
    assert (result.row_count, result.inserted, result.updated, result.ignored) == (0, 0, 0, 0)


async def test_a_table_in_a_schema_and_one_that_is_not_there(db: Any, backend: Backend) -> None:
    await create(db)
    schema = {"sqlite": "main", "postgresql": "public"}.get(backend.name)
    schema = schema or await db.fetch_value("select database()")
    assert (await db.bulk_insert(f"{schema}.item", rows(0, 3))).inserted == 3
    with pytest.raises(SchemaError, match="there is no table nowhere"):
        await db.bulk_insert("nowhere", rows(0, 3))
    async with db.transaction() as tx:
        with pytest.raises(SchemaError, match="there is no table nowhere"):
            await tx.bulk_insert("nowhere", rows(0, 3))
        assert (await tx.bulk_insert("item", rows(3, 6))).inserted == 3
    assert await count(db) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_conflict": "replace"}, "on_conflict: expected 'error', 'ignore' or 'update'"),
        ({"progress": 5}, "progress: expected a function"),
        ({"columns": "id"}, "columns: expected a list"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(
    db: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await db.bulk_insert(ITEM, rows(0, 3), **options)


# --- stored as insert() stores it ----------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Kind(enum.Enum):
    SMALL = 1
    LARGE = 2


_types = sa.MetaData()


def typed(name: str) -> sa.Table:
    return sa.Table(
        name,
        _types,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", UtcDateTime),
        sa.Column("plain_at", sa.DateTime),
        sa.Column("day", sa.Date),
        sa.Column("price", Money),
        sa.Column("ratio", ExactDecimal(10, 3)),
        sa.Column("extra", Json),
        sa.Column("colour", StrEnum(Colour), default=Colour.BLUE),
        sa.Column("kind", sa.Enum(Kind, name=f"kind_{name}")),
        sa.Column("text", sa.Text),
        sa.Column("flag", sa.Boolean),
        sa.Column("size", sa.Double),
        sa.Column("data", sa.LargeBinary),
        sa.Column("token", Uuid),
        sa.Column("big", sa.BigInteger),
        sa.Column("odd name %", sa.Integer, key="odd"),
        sa.Column("twice", sa.Integer, default=lambda context: (context.get_current_parameters().get("odd") or 0) * 2),
        sa.Column("made", sa.String(10), server_default="there"),
    )


FAST, PLAIN = typed("fast"), typed("plain")
ALPHABET = "abc\\\t\n\r'\"%_;:\x7fäß€😀{}NULL\x01"


def random_row(chance: random.Random) -> dict[str, Any]:
    zone = dt.timezone(dt.timedelta(hours=chance.randint(-11, 11)))
    made = {
        "at": dt.datetime.fromtimestamp(chance.randint(1, 3_000_000_000), zone),
        "plain_at": dt.datetime(2024, 1, chance.randint(1, 28), chance.randint(0, 23), 59, 1),
        "day": dt.date.fromordinal(chance.randint(400_000, 900_000)),
        "price": Decimal(chance.randint(-(10**9), 10**9)).scaleb(-4),
        "ratio": Decimal(chance.randint(-(10**6), 10**6)).scaleb(-chance.randint(0, 3)),
        "extra": {"k": "".join(chance.choices(ALPHABET, k=3)), "n": [1, None, chance.random()]},
        "kind": chance.choice(list(Kind)),
        "text": "".join(chance.choices(ALPHABET, k=chance.randint(0, 9))),
        "flag": chance.random() < 0.5,
        "size": chance.uniform(-1e9, 1e9),
        "data": chance.randbytes(4),
        "token": uuid.UUID(int=chance.getrandbits(128), version=4),  # MariaDB refuses some others
        "big": chance.randint(-(2**63), 2**63 - 1),
        "odd": chance.randint(-1000, 1000),
    }
    return {name: None if chance.random() < 0.1 else value for name, value in made.items()}


@pytest.mark.parametrize("with_bytes", [True, False], ids=["bytes", "fast"])
async def test_what_is_stored_is_what_insert_stores(db: Any, with_bytes: bool) -> None:
    """Every column, read back as the database itself has it, is the same after both; defaults are made alike."""
    await create(db, _types)
    chance = random.Random(20)
    given = [random_row(chance) for _ in range(150)]
    if not with_bytes:
        given = [{name: value for name, value in row.items() if name != "data"} for row in given]
    assert (await db.bulk_insert(FAST, iter(given))).inserted == 150
    for start in range(0, 150, 50):
        await db.execute_many(PLAIN.insert(), given[start : start + 50])
    names = ", ".join(c.name for c in FAST.c if c.key not in ("id", "odd"))
    fast, plain = [await db.fetch_all(f"select {names} from {name} order by id") for name in ("fast", "plain")]
    assert [tuple(row) for row in fast] == [tuple(row) for row in plain]
    fast, plain = [await db.fetch_all(sa.select(table).order_by(table.c.id)) for table in (FAST, PLAIN)]
    assert [tuple(row) for row in fast] == [tuple(row) for row in plain]
    assert {row.made for row in fast} == {"there"}
    assert [row.twice for row in fast] == [(row.odd or 0) * 2 for row in given_as(given)]


def given_as(given: list[dict[str, Any]]) -> list[Any]:
    return [type("Given", (), row) for row in given]


async def test_values_that_the_fast_way_may_read_otherwise_go_by_insert(db: Any) -> None:
    """An aware time in a column without a zone, a float in one of integers: as insert() stores them."""
    await create(db, _types)
    odd: list[dict[str, Any]] = [
        {"plain_at": dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=5))), "big": 6.6, "text": "a"},
        {"plain_at": None, "big": 7, "text": "b"},
    ]
    await db.bulk_insert(FAST, odd)
    await db.execute_many(PLAIN.insert(), odd)
    fast, plain = [await db.fetch_all(f"select plain_at, big, text from {n} order by id") for n in ("fast", "plain")]
    assert [tuple(row) for row in fast] == [tuple(row) for row in plain]


async def test_a_default_that_sql_makes(db: Any) -> None:
    metadata = sa.MetaData()
    table = sa.Table(
        "noted",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("word", sa.String(9), nullable=False, unique=True),
        sa.Column("loud", sa.String(9), default=sa.func.upper("made")),
    )
    await create(db, metadata)
    assert (await db.bulk_insert(table, [{"word": f"w{n}"} for n in range(30)])).inserted == 30
    assert await db.fetch_value("select count(*) from noted where loud = 'MADE'") == 30
    given = [{"word": f"x{n}"} for n in range(30)]
    given[21] = {"word": "w3"}
    with pytest.raises(UniqueViolationError, match=r"rows\[21\]"):
        await db.bulk_insert(table, given)
    assert await db.fetch_value("select count(*) from noted") == 30


# --- bad rows ------------------------------------------------------------------------------------

BAD = {
    "null": ({"sku": None}, NotNullViolationError, "sku"),
    "there already": ({"sku": VALUE}, UniqueViolationError, None),
    "no shop": ({"shop_id": 1918273645}, ForeignKeyViolationError, None),
    "below zero": ({"qty": -1918273645}, CheckViolationError, None),
    "wrong type": ({"sku": {VALUE}}, PrefiqDbError, None),
    "lone surrogate": ({"sku": f"{VALUE[:9]}\ud800"}, DataError, None),
}


@pytest.mark.parametrize("how", BAD)
async def test_a_bad_row_is_named_and_nothing_is_inserted(
    db: Any,
    how: str,
    collected: Collected,  # noqa: F811
) -> None:
    """Its index, and the column where the database tells; no value in message, traceback or log."""
    await create(db)
    await db.execute(SHOP.insert().values(id=1))
    await db.bulk_insert(ITEM, [{"id": 9_000_000, "sku": VALUE, "qty": 1, "shop_id": 1}])
    change, kind, column = BAD[how]
    given = rows(0, 1200, shop_id=1)
    given[777] |= change
    try:
        await db.bulk_insert(ITEM, iter(given))
    except kind as caught:
        error = caught
    else:
        pytest.fail("it went in")
    collected.add_error("raised", error)
    assert str(error).startswith("rows[777]"), str(error)
    if column is not None:
        assert error.column == column
    assert await count(db) == 1
    assert collected.holding(VALUE, "1918273645", "S776") == []


async def test_a_text_that_is_too_long_is_named_with_its_column(db: Any, backend: Backend) -> None:
    if backend.name == "sqlite":
        pytest.skip("SQLite keeps texts of any length")
    await create(db)
    given = rows(0, 100)
    given[64]["sku"] = "much too long for this column"
    with pytest.raises(DataError, match=r"^rows\[64\], column sku: ") as caught:
        await db.bulk_insert(ITEM, given)
    assert caught.value.column == "sku"
    assert await count(db) == 0


async def test_a_value_that_its_type_refuses_is_named_with_its_column(db: Any) -> None:
    await create(db, _types)
    with pytest.raises(UsageError, match=r"^rows\[2\], column price: .*not float"):
        await db.bulk_insert(FAST, [{"price": Decimal(1)}, {"price": None}, {"price": 1.5}])
    assert await db.fetch_value("select count(*) from fast") == 0


async def test_two_rows_of_one_call_with_the_same_key(db: Any) -> None:
    await create(db)
    with pytest.raises(UniqueViolationError, match=r"^rows\[40\]"):
        await db.bulk_insert(ITEM, [*rows(0, 40), *rows(3, 4), *rows(40, 60)])
    assert await count(db) == 0


async def test_a_row_of_the_wrong_shape_undoes_the_chunks_before_it(db: Any) -> None:
    await create(db)

    def given() -> Iterator[Any]:
        yield from rows(0, 21_000)
        yield {"id": 1}

    with pytest.raises(UsageError, match=r"rows\[21000\]: it lacks qty, sku"):
        await db.bulk_insert(ITEM, given())
    assert await count(db) == 0


async def test_the_error_of_a_generator_and_of_progress_goes_through_unchanged(db: Any) -> None:
    await create(db)
    mine = ZeroDivisionError("mine")

    def given() -> Iterator[Any]:
        yield from rows(0, 15_000)
        raise mine

    def stop(done: int) -> None:
        raise mine

    for call in (lambda: db.bulk_insert(ITEM, given()), lambda: db.bulk_insert(ITEM, rows(0, 9), progress=stop)):
        with pytest.raises(ZeroDivisionError) as caught:
            await call()
        assert caught.value is mine
        assert await count(db) == 0


# --- conflicts -----------------------------------------------------------------------------------


async def test_conflicts_are_ignored_and_bad_rows_are_not(db: Any) -> None:
    await create(db)
    await db.bulk_insert(ITEM, rows(0, 10))
    result = await db.bulk_insert(ITEM, rows(5, 25), on_conflict="ignore")
    assert (result.row_count, result.inserted, result.updated, result.ignored) == (20, 15, 0, 5)
    one = await db.bulk_insert(ITEM, [{"id": 900, "sku": "S3", "qty": 1}], on_conflict="ignore")
    assert (one.inserted, one.ignored) == (0, 1)
    given = rows(20, 60)
    given[33]["sku"] = None
    with pytest.raises(NotNullViolationError, match=r"^rows\[33\], column sku"):
        await db.bulk_insert(ITEM, given, on_conflict="ignore")
    assert await content(db) == [(n, f"S{n}", n % 7) for n in range(25)]


async def test_conflicts_update_the_given_columns(db: Any, backend: Backend) -> None:
    await create(db)
    await db.execute(SHOP.insert().values(id=1))
    await db.bulk_insert(ITEM, rows(0, 10, shop_id=1))
    changed = [{"sku": f"N{n}", "qty": 50, "id": n} for n in range(5, 25)]
    result = await db.bulk_insert(ITEM, iter([*changed, {"sku": "last", "qty": 51, "id": 24}]), on_conflict="update")
    told = (15, 6) if backend.name != "sqlite" else (None, None)
    assert (result.row_count, result.inserted, result.updated, result.ignored) == (21, *told, 0)
    one = await db.bulk_insert(ITEM, [{"sku": "N6", "qty": 50, "id": 6}], on_conflict="update")
    assert (one.inserted, one.updated) == ((0, 1) if backend.name != "sqlite" else (None, None))
    wanted = [(n, f"S{n}", n % 7) for n in range(5)] + [(n, f"N{n}", 50) for n in range(5, 24)] + [(24, "last", 51)]
    assert await content(db) == wanted
    assert await db.fetch_value("select count(*) from item where shop_id = 1") == 10


@pytest.mark.parametrize("on_conflict", ["ignore", "update"])
async def test_a_text_with_words_of_the_statement_is_only_a_text(db: Any, backend: Backend, on_conflict: str) -> None:
    """Of one row, and of two: these go different ways."""
    table = sa.Table("words", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("s", sa.Text))
    await create(db, table.metadata)
    text = "a ON DUPLICATE KEY UPDATE b VALUES (%s) %% ON CONFLICT DO NOTHING"
    for given, there in (([1], 0), ([1], 1), ([2, 3], 0), ([2, 3], 2)):
        result = await db.bulk_insert(table, [{"id": n, "s": text} for n in given], on_conflict=on_conflict)
        if backend.name != "sqlite":
            assert (result.inserted, result.updated + result.ignored) == (len(given) - there, there)
    assert [row.s for row in await db.fetch_all("select s from words")] == [text] * 3


@pytest.mark.parametrize("first", [sa.Column("a%b", sa.Integer), sa.Column("a b", sa.Uuid, key="ab")], ids=["%", "key"])
async def test_an_update_of_columns_with_any_name_and_type(db: Any, backend: Backend, first: Any) -> None:
    number = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    table = sa.Table("named", sa.MetaData(), number, first._copy(), sa.Column("c%d", sa.Integer))
    await create(db, table.metadata)
    for value in (1, 2):
        of_first = uuid.UUID(int=value) if first.key == "ab" else value
        given = [{"id": n, first.key: of_first, "c%d": value} for n in (1, 2)]
        result = await db.bulk_insert(table, given, on_conflict="update")
        if backend.name != "sqlite":
            assert result.updated == (0 if value == 1 else 2)
        assert [tuple(row) for row in await db.fetch_all(sa.select(table))] == [(n, of_first, value) for n in (1, 2)]


def plain(name: str, *columns: str, kind: Any = sa.Integer) -> sa.Table:
    number = sa.Column("id", sa.Integer, primary_key=True, autoincrement=False)
    return sa.Table(name, sa.MetaData(), number, *[sa.Column(column, kind) for column in columns])


@pytest.mark.mariadb
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
async def test_numbers_for_columns_that_take_texts_otherwise_are_stored_as_insert_stores_them(db: Any) -> None:
    table = plain("odd", "b", "e", "s", "y")
    await db.execute("create table odd (id int primary key, b bit(8), e enum('3', '1'), s set('2', '1'), y year)")
    given = {"b": 5, "e": 1, "s": 2, "y": 5}
    await db.execute(table.insert().values(id=1, **given))
    await db.bulk_insert(table, [{"id": 2, **given}])
    first, second = [tuple(row) for row in await db.fetch_all("select b + 0, e, s, y from odd order by id")]
    assert first == second


@pytest.mark.postgresql
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_copy_writes_only_where_insert_does(db: Any) -> None:
    await db.execute("create table always (id int generated always as identity, b boolean, s text)")
    for given in ({"id": 1, "s": "a"}, {"b": 1}):
        columns = [sa.Column(name, sa.Text if value == "a" else sa.Integer) for name, value in given.items()]
        table = sa.Table("always", sa.MetaData(), *columns)
        with pytest.raises(PrefiqDbError) as by_insert:
            await db.execute(table.insert().values(given))
        with pytest.raises(type(by_insert.value)):
            await db.bulk_insert(table, [given])
    assert await db.fetch_value("select count(*) from always") == 0


@pytest.mark.mariadb
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
async def test_a_zero_for_the_next_number_goes_by_insert(db: Any) -> None:
    await db.execute("create table numbered (id int auto_increment primary key, v int)")
    await db.bulk_insert("numbered", [{"id": 0, "v": 1}, {"id": 0, "v": 2}])
    assert [tuple(row) for row in await db.fetch_all("select id, v from numbered order by id")] == [(1, 1), (2, 2)]


async def test_an_update_is_refused_if_only_the_table_object_has_the_key(db: Any) -> None:
    await db.execute("create table keyless (id int, v int)")
    for _ in range(2):
        with pytest.raises(PrefiqDbError):
            await db.bulk_insert(plain("keyless", "v"), [{"id": 1, "v": 1}], on_conflict="update")
    assert await db.fetch_value("select count(*) from keyless") == 0


async def test_a_table_given_by_name_may_change(db: Any) -> None:
    await db.execute("create table changing (id int primary key, v int)")
    await db.bulk_insert("changing", [{"id": 1, "v": 1}])
    await db.execute("alter table changing add column w int")
    await db.bulk_insert("changing", [{"id": 2, "v": 1, "w": 1}])
    await db.execute("drop table changing")
    await db.execute("create table changing (id int, v int primary key)")
    for number in (3, 4, 5):
        try:
            await db.bulk_insert("changing", [{"id": number, "v": 1}], on_conflict="update")
        except PrefiqDbError:  # with what is known of the old table
            assert number < 5
    assert [tuple(row) for row in await db.fetch_all("select id, v from changing")] == [(5, 1)]


async def test_rows_with_one_key_come_one_after_the_other(db: Any, backend: Backend) -> None:
    """A bad one among them isn't hidden by a later one."""
    await create(db)
    given = [{"id": n % 5, "sku": f"N{n}", "qty": n} for n in range(20)]
    result = await db.bulk_insert(ITEM, given, on_conflict="update")
    assert (result.inserted, result.updated) == ((5, 15) if backend.name != "sqlite" else (None, None))
    stored = [(n % 5, f"N{n}", n) for n in range(15, 20)]
    assert await content(db) == stored
    for number, change, error in ((3, {"qty": -1}, CheckViolationError), (2, {"sku": "N19"}, UniqueViolationError)):
        bad = [{**row, "sku": f"M{row['qty']}"} for row in given[:10]]
        bad[number].update(change)
        with pytest.raises(error, match=rf"^rows\[{number}\]"):
            await db.bulk_insert(ITEM, bad, on_conflict="update")
        assert await content(db) == stored


async def test_an_update_never_touches_the_row_of_another_key(db: Any) -> None:
    """Only the primary key finds the row to update; a conflict of another unique key is an error with its row."""
    await create(db)
    await db.bulk_insert(ITEM, rows(0, 10))
    with pytest.raises(UniqueViolationError, match=r"^rows\[1\]"):
        await db.bulk_insert(
            ITEM, [{"id": 3, "sku": "new", "qty": 0}, {"id": 77, "sku": "S5", "qty": 0}], on_conflict="update"
        )
    assert await content(db) == [(n, f"S{n}", n % 7) for n in range(10)]


async def test_an_update_needs_a_key(db: Any) -> None:
    await create(db)
    with pytest.raises(
        UsageError, match="the rows need all columns of the primary key or of a unique key; item has: id; sku"
    ):
        await db.bulk_insert(ITEM, [{"qty": 1}], on_conflict="update")


# --- transactions --------------------------------------------------------------------------------


async def test_inside_a_transaction_it_joins_it_and_a_failure_leaves_it_usable(db: Any) -> None:
    await create(db)
    async with db.transaction() as tx:
        await tx.execute(ITEM.insert().values(id=500, sku="before", qty=1))
        for verbs in (tx, db):
            with pytest.raises(UniqueViolationError, match=r"^rows\[3\]"):
                await verbs.bulk_insert(ITEM, [*rows(0, 3), *rows(500, 501, sku="again")])
        await db.bulk_insert(ITEM, rows(0, 3))
        assert await count(tx) == 4
    assert await count(db) == 4
    with pytest.raises(ZeroDivisionError):
        async with db.transaction() as tx:
            await tx.bulk_insert(ITEM, rows(10, 20))
            raise ZeroDivisionError
    assert await count(db) == 4


async def test_rows_may_come_from_the_transaction_itself(db: Any, world: str) -> None:
    """While rows are waited for nothing runs, so they may be read on the same connection."""
    await create(db)
    await db.bulk_insert(ITEM, rows(0, 10))
    async with db.transaction() as tx:
        if world == "sync":

            def given() -> Iterator[Any]:
                for row in tx._wrapped.fetch_all("select id, sku from item"):
                    yield row.id + 100, f"copy of {row.sku}"

            await tx.bulk_insert(ITEM, given(), columns=["id", "sku"])
        else:

            async def given_async() -> AsyncIterator[Any]:
                for row in await tx.fetch_all("select id, sku from item"):
                    yield row.id + 100, f"copy of {row.sku}"

            await tx.bulk_insert(ITEM, given_async(), columns=["id", "sku"])
    assert await count(db) == 20


async def test_read_only_is_refused(db: Any) -> None:
    await create(db)
    with pytest.raises(ReadOnlyError):
        await db.using(read_only=True).bulk_insert(ITEM, rows(0, 3))
    async with db.transaction():
        with pytest.raises(UsageError, match="read_only: bulk_insert writes"):
            await db.using(read_only=True).bulk_insert(ITEM, rows(0, 3))
    assert await count(db) == 0


# --- what is no row's fault ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["view", "missing column", "read-only"])
async def test_no_row_is_named_where_no_row_is_at_fault(db: Any, fault: str) -> None:
    """SQLite's driver fails before it has taken a row, or at the first one, whatever that holds."""
    await create(db)
    if fault == "view":
        await db.execute(
            "create view first_items as select id, sku, qty, count(*) as n from item group by id, sku, qty"
        )
        table = sa.table("first_items", *(sa.column(name) for name in ("id", "sku", "qty")))
        given, target = rows(0, 3), table
    elif fault == "missing column":
        target = sa.Table(
            "item", sa.MetaData(), *(sa.Column(name, sa.Integer) for name in ("id", "sku", "qty", "nowhere"))
        )
        given = rows(0, 3, nowhere=1)
    else:
        target, given = ITEM, rows(0, 3)
    with pytest.raises(PrefiqDbError) as caught:
        if fault == "read-only":
            async with db.transaction(read_only=True) as tx:
                await tx.bulk_insert(target, given)
        else:
            await db.bulk_insert(target, given)
    assert "rows[" not in str(caught.value)
    assert await count(db) == 0
