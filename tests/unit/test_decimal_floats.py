"""Decimals as floats: each of up to 15 digits has one of its own, in the same order, and comes back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.dialects.sqlite_decimals import add_functions
from prefiq_db.types.decimal_floats import decimal_of, fits, float_of
from prefiq_db.types.decimals import check_sql

scales = st.integers(0, 15)
units = st.integers(-(10**15) + 1, 10**15 - 1)


@given(units, units, scales, scales)
def test_the_floats_of_two_decimals_are_in_the_order_of_the_decimals(one: int, other: int, scale: int, of: int) -> None:
    left, right = Decimal(one).scaleb(-scale), Decimal(other).scaleb(-of)
    a, b = float_of(left), float_of(right)
    assert a is not None
    assert b is not None
    assert (a < b, a == b) == (left < right, left == right)
    assert decimal_of(a) == left


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_what_a_float_does_not_tell_has_none(number: Decimal) -> None:
    found = float_of(number)
    if found is not None:
        assert decimal_of(found) == number


def test_sixteen_digits_have_no_float() -> None:
    """The control: two numbers that differ are one float."""
    one, other = Decimal("9007199254740.992"), Decimal("9007199254740.9925")
    assert float(one) != float(other) or float_of(other) is None
    assert float(Decimal("9007199254740993")) == float(Decimal("9007199254740992"))
    assert float_of(Decimal("9007199254740993")) is None


@pytest.fixture(scope="module")
def sqlite() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for scale in (0, 2, 4, 10, 15):
            connection.execute(f"create table plain{scale} (n decimal_real(19, {scale}) {check_sql('n', scale)})")
        yield connection


@given(number=units, scale=st.sampled_from([0, 2, 4, 10, 15]))
def test_the_check_of_a_column_takes_every_decimal_and_nothing_else(
    sqlite: sqlite3.Connection, number: int, scale: int
) -> None:
    """On a connection without our functions, as other programs have."""
    value = float_of(Decimal(number).scaleb(-scale))
    assert value is not None
    sqlite.execute(f"insert into plain{scale} values (?)", (value,))
    (found,) = sqlite.execute(f"select n from plain{scale}").fetchone()
    sqlite.execute(f"delete from plain{scale}")
    assert decimal_of(found) == Decimal(number).scaleb(-scale)
    beside = Decimal(number).scaleb(-scale) + Decimal(1).scaleb(-scale - 1)
    if fits(beside, scale + 1):
        with pytest.raises(sqlite3.IntegrityError):
            sqlite.execute(f"insert into plain{scale} values (?)", (float_of(beside),))


@pytest.mark.parametrize("bad", ["0.1 + 0.2", "'abc'", "x'31'", "1e11", "9e999", "0.00001", "-1e11"])
def test_the_check_refuses_what_stands_for_no_decimal(sqlite: sqlite3.Connection, bad: str) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        sqlite.execute(f"insert into plain4 values ({bad})")


@given(st.lists(st.integers(-(10**13), 10**13), max_size=30))
def test_sums_are_those_of_the_decimals(amounts: list[int]) -> None:
    class Noted(sqlite3.Connection):
        refusal = None

    connection = sqlite3.connect(":memory:", factory=Noted)
    add_functions(connection)
    connection.execute("create table t (n real)")
    connection.executemany("insert into t values (?)", [(float(Decimal(amount).scaleb(-4)),) for amount in amounts])
    (found,) = connection.execute("select prefiq_sum_4(n) from t").fetchone()
    connection.close()
    assert (None if found is None else decimal_of(found)) == (Decimal(sum(amounts)).scaleb(-4) if amounts else None)
