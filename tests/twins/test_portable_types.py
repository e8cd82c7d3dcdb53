"""The portable types: the same value comes back on three databases in two worlds, and SQL compares as Python does."""

from __future__ import annotations

import datetime as dt
import enum
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from prefiq_db.errors import CheckViolationError, DataError, UnsupportedError, UsageError
from prefiq_db.types import (
    JSON_NULL,
    ExactDecimal,
    Json,
    Money,
    StrEnum,
    UtcDateTime,
    Uuid,
    naming_convention,
    numeric_order,
)
from tests.conftest import Backend
from tests.twins.harness import drive
from tests.twins.support import assert_silent, within_sqlite


class Status(enum.StrEnum):
    NEW = "new"
    PAID = "paid"
    REFUSED = "refused: it's late"


class Colour(enum.StrEnum):
    RED = "red"
    NEW = "new"


metadata = sa.MetaData(naming_convention=naming_convention)
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("moment", UtcDateTime),
    sa.Column("price", Money),
    sa.Column("wide", ExactDecimal(38, 10)),
    sa.Column("tax", ExactDecimal(12, 2)),
    sa.Column("code", Uuid),
    sa.Column("document", Json),
    sa.Column("status", StrEnum(Status)),
    sa.Column("before", StrEnum(Status)),
    sa.Column("quantity", sa.Integer),
)


class Base(DeclarativeBase):
    metadata = sa.MetaData(naming_convention=naming_convention)


class Thing(Base):
    __tablename__ = "orm_thing"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    document: Mapped[Any] = mapped_column(Json, nullable=True)
    status: Mapped[Status] = mapped_column(StrEnum(Status))


@pytest.fixture
def store(db: Any, world: str, loop_runner: Any) -> Any:
    """The database with an empty table of all portable types."""
    (loop_runner.run if world == "async" else drive)(db.execute(sa.schema.CreateTable(things)))
    return db


async def put(store: Any, column: str, *values: Any) -> None:
    """Write *values* into *column*, with ids from 0."""
    await store.execute_many(sa.insert(things), [{"id": i, column: value} for i, value in enumerate(values)])


async def got(store: Any, column: str) -> list[Any]:
    return [row[0] for row in await store.fetch_all(sa.select(things.c[column]).order_by(things.c.id))]


# --- the same value comes back -------------------------------------------------------------------

TOKYO = dt.timezone(dt.timedelta(hours=9))
KIRITIMATI = dt.timezone(dt.timedelta(hours=14))
MINUS_12 = dt.timezone(-dt.timedelta(hours=12))
VALUES: dict[str, list[Any]] = {
    "moment": [
        dt.datetime(2024, 2, 29, 23, 59, 59, 999999, KIRITIMATI),
        dt.datetime(2024, 2, 29, 23, 59, 59, 1, MINUS_12),
        dt.datetime(1000, 1, 2, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 31, 23, 59, 59, 999999, dt.UTC),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999999, TOKYO),
        dt.datetime(2038, 1, 19, 3, 14, 8, tzinfo=dt.UTC),
        None,
    ],
    "price": [
        Decimal("999999999999999.9999"),
        Decimal("-999999999999999.9999"),
        Decimal("99999999999.9999"),
        Decimal("-99999999999.9999"),
        Decimal("0.0001"),
        Decimal("-0.0001"),
        Decimal("-0"),
        Decimal("1E+3"),
        7,
        None,
    ],
    "wide": [
        Decimal("1234567890123456789012345678.0123456789"),
        Decimal("-9999999999999999999999999999.9999999999"),
        Decimal("1E-10"),
        Decimal("-12345.0123456789"),
        Decimal("0E-10"),
        None,
    ],
    "code": [
        uuid.UUID(int=0),
        uuid.UUID(int=2**128 - 1),
        uuid.UUID("12345678-9abc-1def-8123-456789abcdef"),
        uuid.UUID("018f3c5e-7b1a-7c3d-9e4f-5a6b7c8d9e0f"),
        None,
    ],
    "document": [
        {"name": "Ünïcode 🫖 \U0001f9d1\u200d\U0001f680", "quote": "'\"\\%:x?", "nul": "a\x00b", "": []},
        [1, -1, 1.5, 1e23, 1e-300, 5e-324, 2**70, 0.1, True, False, None, "", "null", [], {}],
        {"z": 1, "a": {"null": None}},
        "text",
        "123",
        '"quoted"',
        "null",
        "",
        0,
        1e23,
        True,
        False,
        [],
        {},
        JSON_NULL,
        None,
    ],
    "status": [Status.NEW, Status.PAID, Status.REFUSED, "paid", None],
}


@pytest.mark.parametrize("column", VALUES)
async def test_the_same_value_comes_back(store: Any, column: str, backend: Backend) -> None:
    """Edges of each type, by one statement and by many."""
    values = within_sqlite(backend, VALUES[column])
    await put(store, column, *values)
    found = await got(store, column)
    assert found == values
    assert [type(value) for value in found] == [_type_read(column, value) for value in values]
    await store.execute(sa.delete(things))
    for i, value in enumerate(values):
        await store.execute(sa.insert(things).values(**{"id": i, column: value}))
    assert await got(store, column) == values


def _type_read(column: str, value: Any) -> type:
    if value is None:
        return type(None)
    return {"price": Decimal, "wide": Decimal, "status": Status}.get(column, type(value))


async def test_literals_in_the_statement_come_back_too(store: Any, backend: Backend) -> None:
    """What ``--sql`` writes and what a server default says is the value, as a bound one is."""
    for column, values in VALUES.items():
        await store.execute(sa.delete(things))
        for i, value in enumerate(within_sqlite(backend, values)):
            if value is None or "\\" in repr(value) or (column == "document" and "a\x00b" in str(value)):
                continue
            literal = sa.bindparam(None, value, things.c[column].type, literal_execute=True)
            await store.execute(sa.insert(things).values(**{"id": i, column: literal}))
            found = await store.fetch_value(sa.select(things.c[column]).where(things.c.id == i))
            assert found == value
            if isinstance(value, Decimal):
                assert await store.fetch_value(sa.select(things.c.id).where(things.c[column] == value)) == i


@pytest.mark.parametrize("column", VALUES)
async def test_a_value_of_an_expression_comes_back_too(store: Any, column: str, backend: Backend) -> None:
    """MariaDB calls what a bound value takes part in a text."""
    type_ = things.c[column].type
    value = within_sqlite(backend, VALUES[column])[0]
    await put(store, column, None)
    for each in (
        sa.func.coalesce(things.c[column], sa.bindparam("p", value, type_)),
        sa.func.coalesce(things.c[column], sa.bindparam("p", value, type_, literal_execute=True)),
        sa.case((things.c[column].is_(None), sa.literal(value, type_)), else_=things.c[column]),
        sa.literal(value, type_),
        sa.literal(value, type_, literal_execute=True),
    ):
        assert await store.fetch_value(sa.select(each)) == value
    inner = sa.select(sa.func.coalesce(things.c[column], value, type_=type_).label("value")).subquery()
    assert await store.fetch_value(sa.select(inner.c.value)) == value


async def test_an_instant_of_a_text_statement_is_read_by_its_type(store: Any) -> None:
    types = {"at": UtcDateTime}
    moment = VALUES["moment"][0]
    await put(store, "moment", None)
    sql = "select coalesce(moment, :p) as at from things"
    assert await store.fetch_value(sql, {"p": moment}, types=types) == moment
    assert await store.fetch_value("select '2024-02-29 09:59:59.999999' as at", types=types) == moment
    with pytest.raises(DataError) as caught:
        await store.fetch_value(f"select '{SECRET}' as at", types=types)
    assert_silent(caught.value, SECRET)


async def test_instants_come_back_in_utc_and_decimals_with_their_scale(store: Any) -> None:
    """UTC is said, not meant; a zero has no sign; the scale is the column's."""
    await put(store, "moment", dt.datetime(2024, 2, 29, 12, tzinfo=KIRITIMATI))
    (moment,) = await got(store, "moment")
    assert (moment.tzinfo, moment.hour) == (dt.UTC, 22)
    await store.execute(sa.delete(things))
    await put(store, "price", Decimal("-0"), 5, Decimal("1E+3"))
    assert [str(value) for value in await got(store, "price")] == ["0.0000", "5.0000", "1000.0000"]


async def test_sql_null_and_json_null_are_two_things(store: Any) -> None:
    """None is a column with nothing in it, JSON_NULL the document null; a null inside a document is None."""
    await put(store, "document", None, JSON_NULL, sa.JSON.NULL, [None])
    first, second, third, fourth = await got(store, "document")
    assert first is None
    assert second is JSON_NULL
    assert third is JSON_NULL
    assert fourth == [None]
    assert not JSON_NULL
    empty = sa.select(things.c.id).where(things.c.document.is_(None))
    assert [row.id for row in await store.fetch_all(empty)] == [0]


async def test_a_document_is_looked_into_by_sql(store: Any) -> None:
    """A key, a text, a number; and a whole part of the document."""
    await put(store, "document", {"name": "tea", "grams": 100, "tags": ["green", None]}, {"name": "cup"})
    name = things.c.document["name"].as_string()
    assert await store.fetch_value(sa.select(things.c.id).where(name == "cup")) == 1
    grams = things.c.document["grams"].as_integer()
    assert await store.fetch_value(sa.select(grams).where(grams > 99)) == 100
    tags = sa.select(things.c.document["tags"]).where(things.c.id == 0)
    assert await store.fetch_value(tags) == ["green", None]


async def test_a_document_comes_through_subqueries_unions_and_returning(store: Any, backend: Backend) -> None:
    """Wherever a document is selected it is the same document."""
    await put(store, "document", JSON_NULL, {"a": 1})
    inner = sa.select(things.c.id, things.c.document).subquery()
    rows = await store.fetch_all(sa.select(inner.c.document).order_by(inner.c.id))
    assert [row[0] for row in rows] == [JSON_NULL, {"a": 1}]
    cte = sa.select(things.c.document).where(things.c.id == 0).cte()
    assert await store.fetch_value(sa.select(cte)) is JSON_NULL
    both = sa.union_all(*(sa.select(things.c.id, things.c.document).where(things.c.id == i) for i in (0, 1)))
    assert {row.id: row.document for row in await store.fetch_all(both)} == {0: JSON_NULL, 1: {"a": 1}}
    copy = sa.insert(things).from_select(["id", "document"], sa.select(things.c.id + 10, things.c.document))
    await store.execute(copy)
    assert (await got(store, "document"))[2:] == [JSON_NULL, {"a": 1}]
    if backend.name != "mariadb":
        changed = sa.update(things).where(things.c.id == 0).values(document=["new"]).returning(things.c.document)
        assert await store.fetch_value(changed) == ["new"]


async def test_plain_text_statements_read_typed_columns(store: Any) -> None:
    """text().columns(...) gives the same values; only JSON's null is None there on PostgreSQL."""
    await put(store, "document", {"a": [1, "x"]})
    await store.execute(
        sa.update(things).values(moment=VALUES["moment"][0], code=VALUES["code"][3], price=Decimal("4.9"))
    )
    statement = sa.text("select moment, price, code, document from things").columns(
        moment=UtcDateTime, price=Money, code=Uuid, document=Json
    )
    row = await store.fetch_one(statement)
    assert row == (VALUES["moment"][0], Decimal("4.9"), VALUES["code"][3], {"a": [1, "x"]})


# --- SQL compares and sorts as Python does -------------------------------------------------------

PRICES = [Decimal(text) for text in ("-10", "-9.5", "-0.0001", "0", "0.0001", "2", "10", "9", "100.25", "99.9999")]


async def test_decimals_are_compared_and_sorted_as_numbers(store: Any) -> None:
    """Also on SQLite, which has no decimals."""
    await put(store, "price", *PRICES)
    price = things.c.price
    for bound in (*PRICES, Decimal("9.99995"), 3):
        for condition, holds in (
            (price < bound, lambda value, bound=bound: value < bound),
            (price >= bound, lambda value, bound=bound: value >= bound),
            (price.between(-1, bound), lambda value, bound=bound: -1 <= value <= bound),
        ):
            found = {row[0] for row in await store.fetch_all(sa.select(price).where(condition))}
            assert found == set(filter(holds, PRICES))
    for order in (price, price.asc(), numeric_order(price)):
        assert [row[0] for row in await store.fetch_all(sa.select(price).order_by(order))] == sorted(PRICES)
    descending = await store.fetch_all(sa.select(price).order_by(price.desc()))
    assert [row[0] for row in descending] == sorted(PRICES, reverse=True)
    assert await store.fetch_value(sa.select(things.c.id).where(price == Decimal("100.25"))) == 8
    some = sa.select(sa.func.count()).where(price.in_([Decimal(2), 9]))
    assert await store.fetch_value(some) == 2


async def test_decimals_of_38_digits_are_compared_to_the_last_or_refused(store: Any, backend: Backend) -> None:
    """SQLite tells no more than 15 digits apart: it refuses more, in what is stored and in what is compared."""
    wide = things.c.wide
    low, high = Decimal("1234567890123456789012345678.0123456788"), Decimal("1234567890123456789012345678.0123456789")
    if backend.name == "sqlite":
        for statement in (sa.insert(things).values(id=1, wide=low), sa.select(wide).where(wide > low)):
            with pytest.raises(UsageError, match="15 digits") as caught:
                await store.fetch_all(statement)
            assert_silent(caught.value, "1234567890", "0123456788")
        return
    await put(store, "wide", high, low, -low, -high, None)
    rows = await store.fetch_all(sa.select(wide).where(wide.is_not(None)).order_by(wide.asc()))
    assert [row[0] for row in rows] == [-high, -low, low, high]
    assert await store.fetch_value(sa.select(sa.func.count()).where(wide > low)) == 1


async def test_decimal_columns_are_compared_with_columns(store: Any) -> None:
    """Of the same scale, of another one, with integers, with what SQL calculated."""
    row = {"id": 0, "price": Decimal("12.34"), "tax": Decimal("12.34"), "wide": Decimal("9.5"), "quantity": 3}
    await store.execute(sa.insert(things).values(row))
    t = things.c

    async def holds(condition: Any) -> bool:
        return bool(await store.fetch_value(sa.select(sa.func.count()).select_from(things).where(condition)))

    assert await holds(t.price == t.tax)
    assert not await holds(t.price != t.tax)
    assert await holds(t.price > t.wide)
    assert await holds(t.price > t.quantity)
    assert await holds(t.price * t.quantity > Decimal("37.0199"))
    assert await holds(t.price * t.quantity == Decimal("37.02"))
    assert not await holds(t.price * t.quantity < Decimal("37.02"))
    assert await holds(-t.price < t.quantity)
    assert await holds(t.price == sa.literal_column("12.34"))
    assert await holds(t.price > sa.func.coalesce(sa.literal_column("null"), sa.literal_column("9.5")))
    assert await holds(t.price.between(t.wide, sa.select(sa.func.max(t.quantity) * 10).scalar_subquery()))


async def test_sums_of_money_are_exact_or_refused(store: Any, backend: Backend) -> None:
    """SQLite has 15 digits: a sum that needs more is refused there, not rounded."""
    await put(store, "price", *[Decimal("0.1")] * 10)
    assert await store.fetch_value(sa.select(sa.func.sum(things.c.price))) == Decimal(1)
    await store.execute(sa.delete(things))
    await put(store, "price", Decimal("99999999999.9999"), Decimal("0.0001"))
    total = sa.select(sa.func.sum(things.c.price))
    if backend.name == "sqlite":
        with pytest.raises(UnsupportedError, match="at most 15 digits"):
            await store.fetch_value(total)
    else:
        assert await store.fetch_value(total) == Decimal("100000000000.0000")


async def test_instants_and_uuids_of_version_7_sort_by_time(store: Any) -> None:
    moments = sorted(value for value in VALUES["moment"] if value)
    await put(store, "moment", *reversed(moments))
    found = await store.fetch_all(sa.select(things.c.moment).order_by(things.c.moment))
    assert [row[0] for row in found] == moments
    assert await store.fetch_value(sa.select(sa.func.max(things.c.moment))) == moments[-1]
    later = sa.select(sa.func.count()).where(things.c.moment > moments[2])
    assert await store.fetch_value(later) == len(moments) - 3
    await store.execute(sa.delete(things))
    codes = [uuid.UUID(int=(i << 80) | (7 << 76) | (2 << 62) | (2**60 - i)) for i in (1, 255, 256, 70000, 2**40)]
    await put(store, "code", *reversed(codes))
    found = await store.fetch_all(sa.select(things.c.code).order_by(things.c.code))
    assert [row[0] for row in found] == codes


async def test_enum_members_are_compared_by_case_and_sorted_by_bytes(store: Any) -> None:
    await put(store, "status", Status.REFUSED, Status.NEW, Status.PAID)
    assert await store.fetch_value(sa.select(things.c.id).where(things.c.status == Status.NEW)) == 1
    assert await store.fetch_value(sa.select(things.c.id).where(things.c.status == "paid")) == 2
    found = await store.fetch_all(sa.select(things.c.status).order_by(things.c.status))
    assert [row[0] for row in found] == sorted(Status)
    assert await store.fetch_value("select count(*) from things where status = 'NEW'") == 0


# --- the database's own guard of an enum ---------------------------------------------------------


@pytest.mark.parametrize("text", ["gone", "PAID", "paid "])
async def test_the_check_of_an_enum_has_a_name_and_refuses_other_texts(store: Any, text: str) -> None:
    """Also what differs only in case or by a blank, and with one name for each column of the same enum."""
    for statement, name in (
        (sa.text("insert into things (id, status) values (1, :text)"), "ck_things_status"),
        (sa.insert(things).values(id=1, before=sa.type_coerce(sa.bindparam("text"), sa.String)), "ck_things_before"),
    ):
        with pytest.raises(CheckViolationError) as caught:
            await store.execute(statement, {"text": text})
        assert caught.value.constraint == name


async def test_a_text_that_is_no_member_is_told_when_it_is_read(store: Any) -> None:
    """A newer release wrote it, say: that is a DataError without the text, not a LookupError with it."""
    await put(store, "status", Status.NEW)
    known = sa.select(sa.type_coerce(things.c.status, StrEnum(Colour)), sa.literal("x"))
    assert await store.fetch_one(known) == (Colour.NEW, "x")
    await store.execute(sa.update(things).values(status=Status.PAID))
    with pytest.raises(DataError, match="no Colour") as caught:
        await store.fetch_one(known)
    assert_silent(caught.value, "paid")


# --- bad input -----------------------------------------------------------------------------------

SECRET = "4711-secret"
BAD: dict[str, list[Any]] = {
    "moment": [dt.datetime(2024, 1, 1, 4, 7, 11), dt.date(2024, 1, 1), SECRET, 4711,
               dt.datetime(1, 1, 1, tzinfo=KIRITIMATI), dt.datetime(9999, 12, 31, 23, tzinfo=MINUS_12)],
    "price": [4711.5, SECRET, True, Decimal("4711.00001"), Decimal("1E+15"), Decimal("NaN"), Decimal("-Infinity"),
              Decimal("1E+1000000"), Decimal("1E-1000000"), 10**400],
    "code": [SECRET, "12345678-9abc-1def-8123-456789abcdef", 4711, b"1" * 16],
    "document": [float("nan"), [float("inf")], {"a": {4711: 1}}, {SECRET, "b"}, Decimal("4711"), [dt.date(2024, 1, 1)],
                 SECRET + "\ud800", json.loads("[" * 40 + "]" * 40), 10**5000],
    "status": [SECRET, Colour.RED, Colour.NEW, 4711, "PAID", ""],
}  # fmt: skip
NAMES = {"moment": "UtcDateTime", "price": "Money", "code": "Uuid", "document": "Json", "status": "StrEnum"}


@pytest.mark.parametrize("column", BAD)
async def test_bad_input_is_refused_by_the_types_name_and_without_the_value(store: Any, column: str) -> None:
    for value in BAD[column]:
        with pytest.raises(UsageError, match=rf"^{NAMES[column]}: ") as caught:
            await store.execute(sa.insert(things).values(**{"id": 1, column: value}))
        assert_silent(caught.value, SECRET, "4711")
    assert await store.fetch_value("select count(*) from things") == 0


async def test_comparing_with_bad_input_is_refused_too(store: Any) -> None:
    t = things.c
    for condition in (t.price < 1.5, t.price == 1.5, t.moment > dt.datetime(2024, 1, 1), t.code == "x"):
        with pytest.raises(UsageError):
            await store.fetch_all(sa.select(t.id).where(condition))


async def test_an_orm_session_reads_and_writes_them(make_db: Callable[..., Any], world: str) -> None:
    """The types don't know who asks: an ORM row has the same values."""
    db = make_db()
    await db.execute(sa.schema.CreateTable(Thing.__table__))
    async with db.session() as session:
        session.add_all([Thing(id=1, document=None, status=Status.NEW), Thing(id=2, document=JSON_NULL, status="paid")])
        await session.commit()
    async with db.session() as session:
        found = (await session.scalars(sa.select(Thing).order_by(Thing.id))).all()
        assert [(thing.document, thing.status) for thing in found] == [(None, Status.NEW), (JSON_NULL, Status.PAID)]
