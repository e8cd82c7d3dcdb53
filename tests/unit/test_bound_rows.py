"""Rows are converted exactly as insert() converts them."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import random
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from prefiq_db.errors import UsageError
from prefiq_db.execution.bound_rows import BoundInsert, in_place, locate
from prefiq_db.types import ExactDecimal, Json, StrEnum, UtcDateTime


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


ITEM = sa.Table(
    "item",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", UtcDateTime),
    sa.Column("price_amount", ExactDecimal(12, 2), key="price"),
    sa.Column("extra", Json),
    sa.Column("colour", StrEnum(Colour), default=Colour.RED),
    sa.Column("day", sa.Date),
    sa.Column("number", sa.Integer, default=lambda: 7),
    sa.Column("twice", sa.Integer, default=lambda context: context.get_current_parameters()["number"] * 2),
    sa.Column("stamp", sa.String(20), server_default="x"),
)


def random_rows(chance: random.Random) -> list[dict[str, Any]]:
    """Return two rows or more, of the values that each column's type takes."""

    def row() -> dict[str, Any]:
        made = {
            "price": Decimal(chance.randint(-999999, 999999)).scaleb(-2),
            "at": dt.datetime.fromtimestamp(
                chance.uniform(0, 4e9), dt.timezone(dt.timedelta(hours=chance.randint(-9, 9)))
            ),
            "extra": {chance.choice("äb"): chance.randint(0, 9)},
            "day": dt.date.fromordinal(chance.randint(1, 3_000_000)),
        }
        return {name: None if chance.random() < 0.2 else value for name, value in made.items()}

    return [row() for _ in range(chance.randint(2, 6))]


ENGINE = sa.create_engine("sqlite://")
SENT: list[Any] = []


@event.listens_for(ENGINE, "do_executemany")
def note(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    SENT[:] = [(statement, parameters)]
    return True


@functools.cache
def bound_insert(keys: tuple[str, ...]) -> BoundInsert:
    return BoundInsert(ITEM.insert(), keys, ENGINE.dialect)


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_bound_as_insert_binds_them(seed: int) -> None:
    rows = random_rows(random.Random(seed))
    if seed % 2:
        rows = [{**row, "number": place} for place, row in enumerate(rows)]
    bound = bound_insert(tuple(rows[0]))
    with ENGINE.connect() as connection:
        connection.execute(ITEM.insert(), rows)
        complete = bound.complete([tuple(row.values()) for row in rows], connection)
        assert [(bound.compiled.string, bound.bind(complete))] == SENT
    assert bound.is_plain


def test_a_value_that_its_type_refuses_is_located() -> None:
    bound = BoundInsert(ITEM.insert(), ("price",), ENGINE.dialect)
    place = bound.keys.index("price")
    good = tuple(None for _ in bound.keys)
    bad = tuple(1.5 if number == place else None for number in range(len(bound.keys)))
    with pytest.raises(UsageError) as caught:
        bound.bind([good, good, bad, good])
    located = locate(bound, caught.value, 100)
    assert str(located) == "rows[102], column price_amount: ExactDecimal: expected a Decimal or an int, not float"
    assert located.column == "price_amount"


def test_a_place_without_a_column_is_the_row() -> None:
    assert str(in_place(UsageError("why"), 3)) == "rows[3]: why"


@pytest.mark.parametrize(
    "column",
    [
        sa.Column("more", sa.DateTime, default=sa.func.now()),
        sa.Column("more", sa.Integer, sa.Sequence("numbers")),
    ],
)
def test_a_default_that_sql_makes_is_not_plain(column: sa.Column[Any]) -> None:
    from sqlalchemy.dialects import postgresql

    table = sa.Table("t", sa.MetaData(), sa.Column("a", sa.Integer), column)
    assert not BoundInsert(table.insert(), ("a",), postgresql.dialect()).is_plain
    assert BoundInsert(table.insert(), ("a", "more"), postgresql.dialect()).is_plain


def test_a_type_with_an_expression_is_not_plain() -> None:
    class Upper(sa.types.UserDefinedType[str]):
        cache_ok = True

        def bind_expression(self, bindvalue: Any) -> Any:
            return sa.func.upper(bindvalue)

    table = sa.Table("t", sa.MetaData(), sa.Column("a", Upper()), sa.Column("b", sa.Integer))
    dialect = ENGINE.dialect
    assert not BoundInsert(table.insert(), ("a",), dialect).is_plain
    assert BoundInsert(table.insert(), ("b",), dialect).is_plain
