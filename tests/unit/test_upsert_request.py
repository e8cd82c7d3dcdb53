"""What an upsert decides without a database: its statements, its order of assignment, the order of its rows."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql

from prefiq_db.bridge import SyncRuntime
from prefiq_db.core.upsert_steps import in_input_order
from prefiq_db.dialects.upsert_sql import in_order_of_assignment
from prefiq_db.errors import UnsupportedError
from prefiq_db.execution import upsert_request
from prefiq_db.execution.target_tables import TargetTables
from prefiq_db.execution.upsert_request import UpsertRequest, request_of

item = sa.Table(
    "item",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(40), unique=True),
    sa.Column("at", sa.DateTime, unique=True),
    sa.Column("qty", sa.Integer),
    sa.Column("note", sa.LargeBinary),
    sa.Column("made", sa.Integer, default=1),
    sa.Column("size", sa.Float, unique=True),
    sa.Column("price", sa.Numeric(10, 2), unique=True),
    sa.Column("is_on", sa.Boolean, unique=True),
    sa.Column("mixed", sa.Integer().with_variant(sa.Float(24), "mysql"), unique=True),
)


def request(rows: list[dict[str, Any]], key: str = "sku") -> UpsertRequest:
    def reflect(schema: str | None, name: str) -> sa.Table:
        raise AssertionError("a Table is not looked up")

    made = request_of(TargetTables().resolve(item, reflect), rows, key, None, None, SyncRuntime())
    assert made is not None
    return made


# --- how many statements -------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=40),
    st.integers(110, 200) | st.none(),
    st.sampled_from([str, bytes, list]),
)
def test_rows_are_cut_by_number_binds_and_bytes(sizes: list[int], most_binds: int | None, kind: type) -> None:
    """Every row is in one statement, in order; none is larger than allowed, but for a row that is so by itself."""
    values = {str: "x", bytes: b"x", list: [1]}
    rows = [{"sku": f"{number:04}", "note": values[kind] * size} for number, size in enumerate(sizes)]
    made = request(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsert_request, "MOST_BYTES", 500)
        chunks = made.chunks(most_binds)
    assert [number for chunk in chunks for number in chunk] == list(range(len(rows)))
    for chunk in chunks:
        # The default of a column that isn't given is a bind, too.
        assert most_binds is None or len(chunk) * 3 <= most_binds
        size = sum(upsert_request._bytes_of(value) for number in chunk for value in rows[number].values())
        assert len(chunk) == 1 or size <= 500


def test_a_thousand_rows_are_one_statement() -> None:
    rows = [{"sku": str(number), "qty": number} for number in range(2001)]
    assert [len(chunk) for chunk in request(rows).chunks(32_700)] == [1000, 1000, 1]


# --- keys that may be the same for a database ----------------------------------------------------


@pytest.mark.parametrize(
    ("key", "values", "may"),
    [
        ("sku", ["a", "b"], False),
        ("sku", ["a", "A"], True),
        ("sku", ["a", "a "], True),
        ("sku", ["a", "ä"], True),
        ("sku", ["a", "a\x00"], True),
        ("sku", [1, "1"], True),
        ("id", [1, 2], False),
        ("id", ["1", "01"], True),
        ("id", [1, Decimal(2)], True),
        ("size", [2**53, 2**53 + 1], True),
        ("price", [1, 2], True),
        ("is_on", [False, True], False),
        ("mixed", [16777216, 16777217], True),
        ("at", [dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, microsecond=1)], True),
    ],
)
def test_which_keys_a_database_may_take_for_the_same(key: str, values: list[Any], may: bool) -> None:
    assert request([{key: value} for value in values], key).may_have_same_keys(mysql.dialect()) is may


# --- in what order -------------------------------------------------------------------------------


def test_no_assignment_reads_a_column_assigned_before_it() -> None:
    c = item.c
    values = {"qty": c.qty + 1, "made": c.qty, "note": c.made, "at": sa.func.now()}
    ordered = [name for name, _ in in_order_of_assignment(values, item)]
    assert ordered.index("note") < ordered.index("made") < ordered.index("qty")
    assert sorted(ordered) == sorted(values)


def test_two_columns_that_read_each_other_have_no_order() -> None:
    with pytest.raises(UnsupportedError, match="made and qty need each other's old value"):
        in_order_of_assignment({"qty": item.c.made, "made": item.c.qty, "note": sa.null()}, item)


@given(st.permutations(range(5)))
def test_rows_in_another_order_are_sorted_by_their_keys(order: list[int]) -> None:
    keys = [(number,) for number in range(5)]
    assert in_input_order(keys, [(number, f"row {number}") for number in order]) == [(f"row {n}",) for n in range(5)]


def test_keys_that_the_database_stores_otherwise_keep_the_servers_order() -> None:
    assert in_input_order([("A",), ("b",)], [("a", 1), ("b", 2)]) == [(1,), (2,)]
