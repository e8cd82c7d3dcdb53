"""What each kind of Python value becomes: the same on three databases, by every road, or refused by its type's name."""

from __future__ import annotations

import array
import datetime as dt
import enum
import json
import numbers
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa

from prefiq_db.errors import DataError, StatementRefusedError, UsageError
from prefiq_db.types import JSON_NULL, Money, UtcDateTime, Uuid
from tests.conftest import Backend
from tests.twins.harness import drive
from tests.twins.support import assert_silent

metadata = sa.MetaData()
box = sa.Table(
    "box",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("word", sa.String(200)),
    sa.Column("count", sa.BigInteger),
    sa.Column("ratio", sa.Double),
    sa.Column("data", sa.LargeBinary),
    sa.Column("flag", sa.Boolean),
    sa.Column("amount", Money),
    sa.Column("at", UtcDateTime),
    sa.Column("naive", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("clock", sa.Time),
    sa.Column("code", Uuid),
    sa.Column("document", sa.JSON),
)

BERLIN = dt.timezone(dt.timedelta(hours=2))
AT = dt.datetime(2024, 7, 1, 14, 30, 0, tzinfo=BERLIN)


class Colour(enum.Enum):
    RED = "red"


class Shade(enum.StrEnum):
    DARK = "dark"


class Level(enum.IntEnum):
    HIGH = 7


class Amount(enum.Enum):
    SMALL = Decimal("0.25")


class Word(str):
    __slots__ = ()


class Moment(dt.datetime):
    """As pendulum's DateTime is."""


class Int64:
    """As numpy's int64 is: no int, but registered as an Integral, and with a buffer of its bytes."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.dtype = type("dtype", (), {"kind": "i"})

    ndim = 0

    def item(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    __int__ = __index__


numbers.Integral.register(Int64)


class Float32:
    """As numpy's float32 is."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


numbers.Real.register(Float32)


class Bool:
    """As numpy's bool is: it counts as nothing."""

    ndim = 0
    dtype = type("dtype", (), {"kind": "b"})

    def item(self) -> bool:
        return True


# What is given, the column, and what comes back from it.
TAKEN: list[tuple[str, Any, Any]] = [
    ("word", "it's", "it's"),
    ("word", Word("own"), "own"),
    ("word", Colour.RED, "red"),
    ("word", Shade.DARK, "dark"),
    ("count", 2**63 - 1, 2**63 - 1),
    ("count", Level.HIGH, 7),
    ("count", Int64(7), 7),
    ("ratio", 0.1, 0.1),
    ("ratio", Float32(0.5), 0.5),
    ("flag", Bool(), True),
    ("data", b"\x00'", b"\x00'"),
    ("data", bytearray(b"\x00'"), b"\x00'"),
    ("data", memoryview(b"\x00'"), b"\x00'"),
    ("amount", Decimal("0.10"), Decimal("0.1")),
    ("amount", Decimal("1E-4"), Decimal("0.0001")),
    ("amount", Decimal("1E+3"), Decimal(1000)),
    ("amount", Amount.SMALL, Decimal("0.25")),
    ("at", AT, AT),
    ("at", Moment(2024, 7, 1, 14, 30, tzinfo=BERLIN), AT),
    ("naive", dt.datetime(2024, 7, 1, 12), dt.datetime(2024, 7, 1, 12)),
    ("day", dt.date(2024, 7, 1), dt.date(2024, 7, 1)),
    ("clock", dt.time(23, 59, 58), dt.time(23, 59, 58)),
    ("code", uuid.UUID(int=7), uuid.UUID(int=7)),
    ("document", {"a": [1, None]}, {"a": [1, None]}),
    ("document", OrderedDict(b=1), {"b": 1}),
    ("document", JSON_NULL, None),
]
LABELS = [f"{column}-{type(value).__name__}-{place}" for place, (column, value, _) in enumerate(TAKEN)]


@pytest.fixture
def store(db: Any, world: str, loop_runner: Any) -> Any:
    (loop_runner.run if world == "async" else drive)(db.execute(sa.schema.CreateTable(box)))
    return db


def insert_into(column: str) -> str:
    return f"insert into box (id, {column}) values (:id, :value)"


async def _one(store: Any, column: str, value: Any) -> None:
    await store.execute(insert_into(column), {"id": 1, "value": value})


async def _many(store: Any, column: str, value: Any) -> None:
    rows = [{"id": 1, "value": value}, {"id": 2, "value": value}, {"id": 3, "value": None}]
    await store.execute_many(insert_into(column), rows)


async def _tx(store: Any, column: str, value: Any) -> None:
    async with store.transaction() as tx:
        await tx.execute(insert_into(column), {"id": 1, "value": value})


async def _session(store: Any, column: str, value: Any) -> None:
    async with store.session() as session:
        await session.execute(sa.text(insert_into(column)), {"id": 1, "value": value})
        await session.commit()


async def _untyped_core(store: Any, column: str, value: Any) -> None:
    table = sa.table("box", sa.column("id"), sa.column(column))
    await store.execute(sa.insert(table), {"id": 1, column: value})


ROADS: dict[str, Callable[..., Any]] = {
    "one": _one, "many": _many, "transaction": _tx, "session": _session, "core": _untyped_core,
}  # fmt: skip


@pytest.mark.parametrize("road", ROADS)
async def test_each_value_becomes_what_the_table_says(store: Any, road: str) -> None:
    """By a verb, as one of many rows, in a transaction, through a session, and in Core without a type."""
    for column, value, expected in TAKEN:
        await ROADS[road](store, column, value)
        found = await store.fetch_value(sa.select(box.c[column]).where(box.c.id == 1))
        assert found == expected, (column, type(value))
        await store.execute(sa.delete(box))


@pytest.mark.parametrize(
    ("column", "value", "expected"), [case for case in TAKEN if case[0] not in ("document",)], ids=[
        label for label in LABELS if not label.startswith("document")
    ]
)  # fmt: skip
async def test_what_was_stored_is_found_by_the_same_value(store: Any, column: str, value: Any, expected: Any) -> None:
    """Also in a list behind IN, and bound with bindparams()."""
    await store.execute(sa.insert(box), {"id": 1, column: expected})
    text = sa.text(f"select id from box where {column} = :value")
    assert await store.fetch_value(text, {"value": value}) == 1
    if not isinstance(value, enum.Enum):
        assert await store.fetch_value(text.bindparams(value=value)) == 1
    if isinstance(value, (bytearray, memoryview)):
        return  # to SQLAlchemy an element that is a sequence is a row of several values
    listed = sa.text(f"select id from box where {column} in :values").bindparams(sa.bindparam("values", expanding=True))
    assert await store.fetch_value(listed, {"values": [value, value]}) == 1


class Secret:
    def __str__(self) -> str:
        return "planted"

    __repr__ = __str__


Pair = namedtuple("Pair", "a b")
REFUSED: dict[str, tuple[Any, str]] = {
    "SecretStr": (pydantic.SecretStr("planted"), "get_secret_value"),
    "Secret": (Secret(), "str"),
    "complex": (1j, "number"),
    "Fraction": (__import__("fractions").Fraction(1, 3), "number"),
    "array": (array.array("i", [1]), "list"),
    "range": (range(3), "list"),
    "set": ({1}, "list"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_the_rest_is_refused_by_its_type_before_anything_is_sent(store: Any, backend: Backend, name: str) -> None:
    """It names the bind and the type and says what to do; also inside a list, and in a Core column of text."""
    value, advice = REFUSED[name]
    if backend.name == "postgresql" and name in ("range", "set", "array"):
        return  # psycopg has words of its own for those
    before = store.stats().statement_count
    statements = [
        (insert_into("word"), {"id": 1, "value": value}),
        (sa.text("select id from box where word in :value").bindparams(sa.bindparam("value", expanding=True)),
         {"value": ["a", value]}),
        (sa.text("select id from box where word = :value").bindparams(value=value), None),
    ]  # fmt: skip
    for statement, params in statements:
        with pytest.raises(UsageError, match=rf"bind 'value': a value of type {name} can't be passed .*{advice}") as e:
            await store.execute(statement, params)
        assert_silent(e.value, "planted")
    with pytest.raises(UsageError, match=name):
        await store.execute(sa.insert(box).values(id=1, word=value))
    with pytest.raises(UsageError, match=name):
        await store.execute_many(insert_into("word"), [{"id": 1, "value": "a"}, {"id": 2, "value": value}])
    assert store.stats().statement_count == before
    assert await store.fetch_value("select count(*) from box") == 0


async def test_a_list_without_an_in_is_an_array_or_refused(store: Any, backend: Backend) -> None:
    statement = "select cast(:value as varchar(30))"
    if backend.name == "postgresql":
        assert await store.fetch_value("select cast(:value as text[])", {"value": ["a", Colour.RED]}) == ["a", "red"]
        for value in ([1, 2], (1, 2)):
            assert await store.fetch_value("select 2 = any(:value)", {"value": value})
            assert await store.fetch_value("select cast(:value as text)", {"value": value}) == "{1,2}"
        assert await store.fetch_value("select cast(:value as int[])", {"value": [(1, 2), (3, 4)]}) == [[1, 2], [3, 4]]
        await store.execute_many("select cast(:value as int[])", [{"value": (1, 2)}, {"value": (3,)}])
        # A named tuple is a row still, as psycopg has it.
        assert await store.fetch_value("select cast(:value as text)", {"value": Pair(1, 2)}) == "(1,2)"
        with pytest.raises(UsageError, match="SecretStr"):
            await store.fetch_value("select cast(:value as text[])", {"value": [pydantic.SecretStr("x")]})
        return
    for value in ([1], (1,), [], Pair(1, 2)):
        with pytest.raises(UsageError, match=r"bind 'value': a value of type (list|tuple|Pair) .*behind IN"):
            await store.fetch_value(statement, {"value": value})


async def test_rows_behind_an_in_are_rows(store: Any) -> None:
    """Pairs as tuples, as lists, and in Core: none of them becomes an array."""
    await store.execute_many(insert_into("word"), [{"id": 1, "value": "a"}, {"id": 2, "value": "b"}])
    for pairs in ([(1, "a"), (2, "a")], ((1, "a"), (3, "b"))):
        found = "select id from box where (id, word) in :pairs"
        assert [row[0] for row in await store.fetch_all(found, {"pairs": pairs})] == [1]
        core = sa.select(box.c.id).where(sa.tuple_(box.c.id, box.c.word).in_(pairs))
        assert [row[0] for row in await store.fetch_all(core)] == [1]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
async def test_a_document_with_what_is_no_json_is_refused(store: Any, number: str) -> None:
    """``{"a": NaN}`` is no JSON: no database's own type, and no other program, would read it."""
    for value in ({"a": float(number)}, OrderedDict(a=[1, {"b": float(number)}])):
        with pytest.raises(UsageError, match=r"bind 'value': a value of type \w+ can't be passed .*JSON has no word"):
            await store.execute(insert_into("word"), {"id": 1, "value": value})
    assert await store.fetch_value("select count(*) from box") == 0


async def test_numbers_that_a_database_has_no_word_for(store: Any, backend: Backend) -> None:
    """NaN, infinities and integers beyond 64 bits: an error of ours, never a NULL or another number."""
    nan = {"id": 1, "value": float("nan")}
    if backend.name == "postgresql":
        await store.execute(insert_into("ratio"), nan)
        assert str(await store.fetch_value("select ratio from box")) == "nan"
        await store.execute(sa.delete(box))
    else:
        for statement in (insert_into("ratio"), sa.insert(box).values(id=1, ratio=sa.bindparam("value"))):
            with pytest.raises(UsageError, match=r"bind 'value': .*NaN"):
                await store.execute(statement, nan)
    if backend.name == "mariadb":
        with pytest.raises(UsageError, match="infinity"):
            await store.execute(insert_into("ratio"), {"id": 1, "value": float("-inf")})
    for number in (2**63, -(2**63) - 1):
        with pytest.raises(DataError) as caught:
            await store.execute(insert_into("count"), {"id": 1, "value": number})
        assert_silent(caught.value, str(number))


async def test_times_and_durations_with_what_the_database_cannot_keep(store: Any, backend: Backend) -> None:
    if backend.name == "postgresql":
        assert await store.fetch_value("select :d * 2", {"d": dt.timedelta(hours=1)}) == dt.timedelta(hours=2)
        return
    with pytest.raises(UsageError, match="zone"):
        await store.execute(insert_into("clock"), {"id": 1, "value": dt.time(12, tzinfo=dt.UTC)})
    too_long = dt.timedelta(hours=1) if backend.name == "sqlite" else dt.timedelta(days=40)
    with pytest.raises(UsageError, match="seconds"):
        await store.execute(insert_into("clock"), {"id": 1, "value": too_long})


async def test_a_plain_datetime_column_keeps_the_instant(store: Any, backend: Backend) -> None:
    """SQLAlchemy's own DateTime leaves the offset out on SQLite; MariaDB's drivers do."""
    if backend.name == "postgresql":
        return
    for statement in (sa.insert(box).values(id=1, naive=AT), sa.update(box).values(naive=AT)):
        await store.execute(statement)
        assert await store.fetch_value(sa.select(box.c.naive)) == dt.datetime(2024, 7, 1, 12, 30)


async def test_small_decimals_are_decimals_to_mariadb(store: Any, backend: Backend) -> None:
    """Written as 1E-7 they would be floats, and so would what is calculated with them."""
    if backend.name != "mariadb":
        return
    found = await store.fetch_value("select :a + 12345678901234567890.5", {"a": Decimal("1E-7")})
    assert found == Decimal("12345678901234567890.5000001")


# --- results with types ---------------------------------------------------------------------------


async def test_results_of_text_have_the_types_that_are_asked_for(store: Any) -> None:
    """One by one, as rows, as models, in a transaction; a sum of floats is rounded to the type's digits."""
    for place, amount in enumerate(("0.1", "0.2", "0.3")):
        row = {"id": place, "amount": Decimal(amount), "at": AT, "code": uuid.UUID(int=place), "document": {"a": place}}
        await store.execute(sa.insert(box), row)
    types = {"amount": Money, "at": UtcDateTime(), "code": Uuid, "document": sa.JSON}
    statement = "select id, amount, at, code, document from box order by id"
    expected = (0, Decimal("0.1"), AT, uuid.UUID(int=0), {"a": 0})
    assert await store.fetch_one(statement, types=types) == expected
    rows = await store.fetch_all(statement, types=types, into=dict)
    assert [str(row["amount"]) for row in rows] == ["0.1000", "0.2000", "0.3000"]
    total = await store.fetch_value("select sum(amount) as total from box", types={"total": Money()})
    assert (total, type(total)) == (Decimal("0.6"), Decimal)
    async with store.transaction() as tx:
        assert await tx.fetch_one(statement, types=types) == expected
        assert len(await tx.fetch_all(sa.text(statement), types=types)) == 3
        found = await tx.fetch_value("select at from box where id = :id", {"id": 1}, types={"at": UtcDateTime})
        assert found == AT


async def test_types_that_fit_nothing_are_named(store: Any) -> None:
    cases: list[tuple[Any, Any, str]] = [
        ("select 1 as a", {"b": Money, "a": sa.Integer}, "no column 'b'"),
        ("select 1 as a", {"a": int}, r"types\['a'\]"),
        (sa.select(box.c.id), {"id": sa.Integer}, "only for text"),
        ("select 1 as a", ["a"], "mapping"),
    ]
    for statement, types, said in cases:
        for verb in (store.fetch_all, store.fetch_one, store.fetch_value):
            with pytest.raises(UsageError, match=said):
                await verb(statement, types=types)


async def test_typed_text_is_watched_like_other_text(store: Any) -> None:
    """With types it is the same text: what may not be sent as text isn't, and a Decimal is judged by its place."""
    for sql in ("begin", "select 1; commit"):
        with pytest.raises(StatementRefusedError):
            await store.fetch_all(sql, types={"a": sa.Integer})
    assert json.loads("{}") == {}
