"""Rows of any kind become uniform tuples, checked as they come."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
from collections import OrderedDict, namedtuple
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pydantic
import pytest
import sqlalchemy as sa

from prefiq_db.bridge import AsyncRuntime, SyncRuntime, spawn
from prefiq_db.errors import UsageError
from prefiq_db.execution.given_rows import GivenRows
from prefiq_db.execution.target_tables import Target

TABLE = sa.Table("item", sa.MetaData(), sa.Column("sku", sa.String), sa.Column("quantity", sa.Integer, key="qty"))
TARGET = Target(TABLE, {"sku": "sku", "qty": "qty", "quantity": "qty"})
SECRET = "hunter2-canary"


@dataclasses.dataclass
class Item:
    sku: str
    qty: int


@dataclasses.dataclass
class Wrong:
    sku: str
    qty: int
    colour: str = SECRET


class Model(pydantic.BaseModel):
    sku: str
    qty: int


Named = namedtuple("Named", ["qty", "sku"])


def given(rows: Any, columns: Any = None) -> GivenRows:
    return GivenRows(rows, columns, TARGET, SyncRuntime())


def all_of(rows: GivenRows) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    while chunk := rows.next_chunk():
        found += chunk
    return found


WANTED = [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([{"sku": "a", "qty": 1}, {"qty": 2, "sku": "b"}], None),
        ([{"sku": "a", "quantity": 1}, OrderedDict(quantity=2, sku="b")], None),
        ([{"sku": "a", "qty": 1, "more": 0}, {"sku": "b", "qty": 2}], ["sku", "qty"]),
        ([Item("a", 1), Item("b", 2)], None),
        ([Wrong("a", 1), Wrong("b", 2)], ["sku", "qty"]),
        ([Model(sku="a", qty=1), Model(sku="b", qty=2)], None),
        ([("a", 1), ("b", 2)], ["sku", "qty"]),
        ([["a", 1], ("b", 2)], [TABLE.c.sku, TABLE.c.qty]),
        (iter([{"sku": "a", "qty": 1}, Item("b", 2), Model(sku="c", qty=3)][:2]), None),
    ],
)  # fmt: skip
def test_rows_of_every_kind(rows: Any, columns: Any) -> None:
    taken = given(rows, columns)
    assert all_of(taken) == WANTED
    assert taken.keys == ("sku", "qty")
    assert taken.taken == 2


def test_named_tuples_say_their_columns() -> None:
    taken = given([Named(1, "a"), Named(2, "b")])
    assert all_of(taken) == [(1, "a"), (2, "b")]
    assert taken.names == ("qty", "sku")


def test_one_column_gives_tuples_of_one() -> None:
    assert all_of(given([{"sku": "a"}] * 40)) == [("a",)] * 40
    assert all_of(given([Item("a", 1)] * 40, ["sku"])) == [("a",)] * 40


def test_no_rows_are_no_chunk() -> None:
    assert given([]).next_chunk() == []
    assert given([], ["sku"]).next_chunk() == []


MANY = [{"sku": "a", "qty": 1}] * 100


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([*MANY, {"sku": SECRET}], None, r"rows\[100\]: it lacks qty, which the first row has"),
        ([*MANY, {"sku": SECRET, "qty": 1, "x": 2}], None, r"rows\[100\]: it has x, which the first row lacks"),
        ([*MANY, {"sku": SECRET, "x": 2}], None, r"rows\[100\]: it has x, which the first row lacks and lacks qty"),
        ([*MANY, {"sku": SECRET}], ["sku", "qty"], r"rows\[100\]: no value for column qty; give None for NULL"),
        ([*MANY, 5], None, r"rows\[100\]: expected a mapping, a dataclass, a pydantic model, .* not int"),
        ([SECRET], None, r"rows\[0\]: expected a mapping, .* not str"),
        ([*MANY, SECRET], ["sku", "qty"], r"rows\[100\]: expected a mapping, .* not str"),
        ([("a", 1)] * 50 + [("b", 2, SECRET)], ["sku", "qty"], r"rows\[50\]: 3 values for 2 columns"),
        ([("a", 1)], None, r"rows\[0\]: tuple: a row without names needs columns="),
        ([{"sku": "a", "colour": SECRET}], None, r"rows\[0\]: item has no column colour; it has sku, qty, quantity"),
        ([{"sku": "a", None: [SECRET]}], None, r"rows\[0\]: item has no column <NoneType>; it has sku"),
        ([{"qty": 1, "quantity": 2}], None, r"rows\[0\]: columns: quantity is given twice"),
        ([{}], None, r"rows\[0\]: columns: expected at least one"),
        ([Item("a", 1), Wrong("b", 2)], None, r"rows\[1\]: Wrong has colour, which the first row lacks"),
        ([Item("a", 1)], ["sku", "quantity"], r"rows\[0\]: Item has no field for column quantity"),
    ],
)
def test_a_bad_row_is_named_and_no_value(rows: Any, columns: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        all_of(given(iter(rows), columns))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("rows", [5, None, "text", b"bytes", {"sku": 1}])
def test_what_is_no_iterable_of_rows_is_refused(rows: Any) -> None:
    with pytest.raises(UsageError, match="rows: expected an iterable of rows, not"):
        given(rows)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("sku", "columns: expected a list of column names, not str"),
        ([1], "columns: expected names, not int"),
        ([], "columns: expected at least one"),
        (["sku", "sku"], "columns: sku is given twice"),
        (["colour"], "item has no column colour"),
    ],
)
def test_bad_columns_are_refused_before_a_row_is_taken(columns: Any, message: str) -> None:
    def rows() -> Iterator[Any]:
        raise AssertionError("taken")
        yield

    with pytest.raises(UsageError, match=message):
        given(rows(), columns)


def test_the_error_of_a_generator_goes_through() -> None:
    def rows() -> Iterator[Any]:
        yield {"sku": "a", "qty": 1}
        raise ZeroDivisionError(SECRET)

    taken = given(rows())
    with pytest.raises(ZeroDivisionError, match=SECRET):
        taken.next_chunk()


def test_rows_come_in_chunks_limited_in_number_and_bytes() -> None:
    taken = 0

    def rows() -> Iterator[tuple[bytes, int]]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield bytes(1_000_000), number

    source = given(rows(), ["sku", "qty"])
    first = source.next_chunk(most_rows=50)
    assert len(first) == taken == 16  # the first piece; nothing was known of the rows' size
    assert len(source.next_chunk(most_rows=50)) <= 8
    small = given([("a", 1)] * 10, ["sku", "qty"])
    assert [len(chunk) for chunk in iter(lambda: small.next_chunk(most_rows=4), [])] == [4, 4, 2]


def test_a_slow_source_does_not_fill_a_chunk() -> None:
    time = 0.0

    def rows() -> Iterator[tuple[str, int]]:
        nonlocal time
        for number in range(1000):
            time += 0.1
            yield "a", number

    source = given(rows(), ["sku", "qty"])
    sizes = []
    while chunk := source.next_chunk(clock=lambda: time):
        sizes.append(len(chunk))
    assert sum(sizes) == 1000
    assert max(sizes[1:]) <= 10


def test_a_sequence_can_be_gone_through_again() -> None:
    taken = given(MANY)
    assert taken.is_sequence
    assert all_of(taken) == all_of(taken.again(SyncRuntime()))
    assert not given(iter(MANY)).is_sequence


def test_a_line_of_a_csv_file_that_is_too_long_is_named() -> None:
    reader = csv.DictReader(io.StringIO(f"sku,qty\na,1\nb,2,{SECRET}\n"))
    with pytest.raises(UsageError, match=r"rows\[1\]: it has <NoneType>, which the first row lacks"):
        all_of(given(reader))


def test_an_async_iterable_needs_an_async_database() -> None:
    async def rows() -> AsyncIterator[Any]:
        yield {"sku": "a", "qty": 1}

    with pytest.raises(UsageError, match="an async iterable needs an AsyncDatabase"):
        given(rows())


def test_an_async_iterable_is_awaited_in_pieces() -> None:
    async def rows() -> AsyncIterator[Any]:
        for number in range(100):
            await asyncio.sleep(0)
            yield {"sku": "a", "qty": number}

    async def take() -> list[Any]:
        return await spawn(lambda: all_of(GivenRows(rows(), None, TARGET, AsyncRuntime())))

    assert asyncio.run(take()) == [("a", number) for number in range(100)]
