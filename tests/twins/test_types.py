"""Values of SQLAlchemy's own types, and values given to text statements, come back as they went in.

prefiq_db's own types are told in ``test_portable_types.py``.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import UsageError
from prefiq_db.types import ExactDecimal, UtcDateTime
from tests.conftest import Backend
from tests.twins.harness import drive
from tests.twins.support import within_sqlite

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("big", sa.BigInteger),
    sa.Column("flag", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("clock", sa.Time),
    sa.Column("data", sa.LargeBinary),
    sa.Column("note", sa.Text),
    sa.Column("short", sa.String(40)),
    sa.Column("document", sa.JSON),
    sa.Column("ident", sa.Uuid),
    sa.Column("seen", UtcDateTime),
    sa.Column("price", ExactDecimal(38, 10)),
    sa.Column("ratio", sa.Double),
)

BERLIN = dt.timezone(dt.timedelta(hours=2))
VALUES: dict[str, list[Any]] = {
    "big": [0, -1, 2**63 - 1, -(2**63)],
    "flag": [True, False],
    "day": [dt.date(2024, 2, 29), dt.date(1000, 1, 1), dt.date(9999, 12, 31)],
    "clock": [dt.time(0, 0), dt.time(23, 59, 59)],
    "data": [b"", b"\x00\xff'\"\\%s\n\r\x1a", bytes(range(256)) * 40],
    "note": ["", "🦆 日本 𝄞 é", 'it\'s "quoted" \\ %s %(x)s :x ? -- /* */', "line\r\nbreak\ttab", "x" * 60000],
    "short": ["", " blanks ", "trailing ", "👩‍👩‍👧‍👦"],
    "document": [{"a": [1, 2.5, None, True, "🦆"]}, [], {}, "text", 0, False, {"nested": {"deep": [{}]}}],
    "ident": [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.uuid4()],
    "seen": [
        dt.datetime(2024, 1, 1, 12, 30, 15, 123456, tzinfo=dt.UTC),
        dt.datetime(2024, 7, 1, 0, 0, 0, 1, tzinfo=BERLIN),
        dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    ],
    "price": [
        decimal.Decimal("0"),
        decimal.Decimal("-12345.0123456789"),
        decimal.Decimal("-0.0000000001"),
        decimal.Decimal("1234567890123456789012345678.0123456789"),
        decimal.Decimal("-9999999999999999999999999999.9999999999"),
        decimal.Decimal("12345678901234567890"),
    ],
    "ratio": [0.0, 0.1, -1.5e300, 1 / 3],
}


@pytest.fixture
def store(db: Any, world: str, loop_runner: Any) -> Any:
    """The database with the table of things."""
    (loop_runner.run if world == "async" else drive)(db.execute(sa.schema.CreateTable(things)))
    return db


async def test_every_type_gives_back_what_was_put_in(store: Any, backend: Backend) -> None:
    """Each value of each type comes back equal and of the same type, one by one and as many rows, and so does None."""
    number = 0
    for column, all_values in VALUES.items():
        values = within_sqlite(backend, all_values)
        for value in [*values, None]:
            number += 1
            await store.execute(sa.insert(things).values({"id": number, column: value}))
            found = await store.fetch_value(sa.select(things.c[column]).where(things.c.id == number))
            assert found == value, column
            assert type(found) is type(value), column
        rows = [{"id": 1000 * number + place, column: value} for place, value in enumerate(values)]
        await store.execute_many(sa.insert(things), rows)
        for place, value in enumerate(values):
            assert (
                await store.fetch_value(sa.select(things.c[column]).where(things.c.id == 1000 * number + place))
                == value
            )


async def test_values_are_found_by_themselves(store: Any, backend: Backend) -> None:
    """A stored value is found by comparing with it."""
    for number, (column, all_values) in enumerate(VALUES.items(), 1):
        if column == "document":
            continue
        values = within_sqlite(backend, all_values)
        value = values[-1] if column != "note" else values[1]
        await store.execute(sa.insert(things).values({"id": number, column: value}))
        assert await store.fetch_value(sa.select(things.c.id).where(things.c[column] == value)) == number


async def test_json_null_is_not_sql_null(store: Any) -> None:
    """In sa.JSON, None is JSON's null, and sa.null() SQL's; both are read as None."""
    await store.execute(sa.insert(things).values(id=1, document=None))
    await store.execute(sa.insert(things).values(id=2, document=sa.null()))
    assert await store.fetch_all(sa.select(things.c.document).order_by(things.c.id)) == [(None,), (None,)]
    assert await store.fetch_all("select id from things where document is null") == [(2,)]


async def test_a_bad_value_is_refused_without_being_shown(store: Any) -> None:
    """What a type refuses is our UsageError with the type's name, in and outside a transaction, and nothing is sent."""
    naive = dt.datetime(2024, 1, 1, 12, 30, 15)
    before = store.stats().statement_count
    for column, value, shown in (("seen", naive, "2024"), ("price", decimal.Decimal("0.47114711471"), "4711")):
        with pytest.raises(UsageError) as refused:
            await store.execute(sa.insert(things).values({"id": 1, column: value}))
        assert shown not in str(refused.value)
        assert refused.value.__context__ is None
        with pytest.raises(UsageError):
            async with store.transaction() as tx:
                await tx.execute(sa.insert(things).values({"id": 1, column: value}))
    assert store.stats().statement_count == before
    assert await store.fetch_value("select count(*) from things") == 0


# --- text statements -----------------------------------------------------------------------------


class Colour(enum.StrEnum):
    RED = "red"


TEXT_VALUES: dict[str, list[Any]] = {
    "big": [2**63 - 1, -(2**63), None],
    "flag": [True, False, None],
    "day": [dt.date(2024, 2, 29), None],
    "clock": [dt.time(23, 59, 59), None],
    "data": [b"\x00\xff'\"\\%s", b"", None],
    "note": ["🦆 it's 100% :x \\", "", None, Colour.RED],
    "ident": [uuid.UUID(int=7), uuid.UUID(int=2**128 - 1), None],
    "seen": [dt.datetime(2024, 7, 1, 0, 0, 0, 123456, tzinfo=BERLIN), None],
    "price": [decimal.Decimal("1234567890123456789012345678.0123456789"), decimal.Decimal("-1.5"), None],
    "document": [{"a": [1, None, "🦆 it's"]}, OrderedDict(b=1), defaultdict(list, c=[1]), None],
    "ratio": [0.1, None],
}


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
async def test_values_of_text_statements_reach_typed_columns(store: Any, many: bool, backend: Backend) -> None:
    """Decimal, datetime, date, time, UUID, dict, bytes, bool and None as params of text give what Core would store."""
    number = 0
    for column, all_values in TEXT_VALUES.items():
        values = within_sqlite(backend, all_values)
        statement = f"insert into things (id, {column}) values (:id, :value)"
        rows = [{"id": number + place, "value": value} for place, value in enumerate(values, 1)]
        if many:
            await store.execute_many(statement, rows)
        else:
            for row in rows:
                await store.execute(statement, row)
        for row in rows:
            found = await store.fetch_value(sa.select(things.c[column]).where(things.c.id == row["id"]))
            assert found == row["value"], column
        number += len(values)


async def test_text_comparisons_find_what_core_stored(store: Any, backend: Backend) -> None:
    """A text statement finds by value what a Core insert stored, for the types that need care."""
    for number, column in enumerate(("seen", "ident", "day", "price", "flag", "big"), 1):
        value = within_sqlite(backend, TEXT_VALUES[column])[0]
        await store.execute(sa.insert(things).values({"id": number, column: value}))
        assert await store.fetch_value(f"select id from things where {column} = :value", {"value": value}) == number


async def test_what_text_gives_back(store: Any, backend: Backend) -> None:
    """A text SELECT has no types: numbers, text, bytes and None are as they are; the rest is as the driver gives it."""
    async with store.transaction() as tx:
        await tx.execute(sa.insert(things).values(id=1, big=2**62, note="🦆", data=b"\x00\xff", ratio=0.5))
        found = await tx.fetch_one("select big, note, data, ratio, document from things")
    assert tuple(found[:2]) == (2**62, "🦆")
    assert bytes(found[2]) == b"\x00\xff"
    assert found[3] == 0.5
    assert found[4] is None
    typed = sa.text("select document from things").columns(document=sa.JSON)
    await store.execute("update things set document = :value", {"value": {"a": 1}})
    assert await store.fetch_value(typed) == {"a": 1}
    if backend.name != "postgresql":
        assert json.loads(await store.fetch_value("select document from things")) == {"a": 1}


async def test_a_view_of_the_server_agrees(store: Any, make_db: Callable[..., Any], backend: Backend) -> None:
    """An instant given in Berlin's time is stored as that instant: the server's own calculation says so."""
    instant = dt.datetime(2024, 7, 1, 14, 0, tzinfo=BERLIN)
    await store.execute(sa.insert(things).values(id=1, seen=instant))
    hour = {
        "sqlite": "select cast(strftime('%H', seen) as integer) from things",
        "postgresql": "select cast(extract(hour from seen at time zone 'UTC') as integer) from things",
        "mariadb": "select hour(seen) from things",
    }[backend.name]
    assert await make_db().fetch_value(hour) == 12
