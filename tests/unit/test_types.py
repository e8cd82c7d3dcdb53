"""What the types do without a database: any value that they take comes back, and what they can't keep is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from prefiq_db.errors import SchemaError, UnsupportedError, UsageError
from prefiq_db.types import JSON_NULL, ExactDecimal, Json, Money, StrEnum, UtcDateTime

SQLITE = sqlite.dialect()

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)


def there_and_back(type_: Any, value: Any) -> Any:
    """Return what SQLite's driver would be given and, from that, what the caller would be given."""
    bind = type_.dialect_impl(SQLITE).bind_processor(SQLITE)
    result = type_.dialect_impl(SQLITE).result_processor(SQLITE, None)
    return result(bind(value))


@given(documents)
def test_any_document_comes_back(document: Any) -> None:
    expected = JSON_NULL if document is JSON_NULL else document
    assert there_and_back(Json(), expected) == expected


@given(st.integers(-(10**15) + 1, 10**15 - 1).map(lambda units: Decimal(units).scaleb(-4)))
def test_any_amount_comes_back_and_equal_amounts_are_equal_floats(amount: Decimal) -> None:
    assert there_and_back(Money(), amount) == amount
    bind = Money().dialect_impl(SQLITE).bind_processor(SQLITE)
    assert bind(amount) == bind(amount.normalize())


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_a_number_comes_back_or_is_refused_but_is_never_rounded(number: Decimal) -> None:
    try:
        back = there_and_back(ExactDecimal(20, 6), number)
    except UsageError:
        return
    assert back == number


@given(st.datetimes(min_value=dt.datetime(2, 1, 1), max_value=dt.datetime(9998, 12, 31), timezones=st.timezones()))
def test_any_instant_comes_back(moment: dt.datetime) -> None:
    # In UTC: Python says that an hour which is skipped or repeated equals none of another zone.
    assert there_and_back(UtcDateTime(), moment) == moment.astimezone(dt.UTC)


@given(st.integers(-(10**11), 10**11))
def test_what_sqlite_calculates_in_floats_is_right_or_refused(units: int) -> None:
    amount = Decimal(units).scaleb(-4)
    assert Money().process_result_value(float(amount), SQLITE) == amount
    for wrong in (float(10**11 + abs(units)), 0.00001, 1 / 3):
        with pytest.raises(UnsupportedError):
            Money().process_result_value(wrong, SQLITE)


def test_a_text_of_an_earlier_version_is_an_error_that_says_what_to_run() -> None:
    with pytest.raises(SchemaError, match="decimals_to_numbers"):
        Money().process_result_value("4711.0000", SQLITE)


@pytest.mark.parametrize(
    "declare",
    [
        lambda: ExactDecimal(0),
        lambda: ExactDecimal(66),
        lambda: ExactDecimal(10, 11),
        lambda: ExactDecimal(40, 31),
        lambda: StrEnum(()),
        lambda: StrEnum(("a", "a")),
        lambda: StrEnum(("a", "")),
        lambda: StrEnum((" a",)),
        lambda: StrEnum(("abc",), length=2),
    ],
)
def test_a_type_that_no_database_has_is_refused_when_it_is_declared(declare: Any) -> None:
    with pytest.raises(UsageError, match=r"^(ExactDecimal|StrEnum): "):
        declare()


def test_types_of_other_arguments_are_other_types_to_the_statement_cache() -> None:
    """Or a statement would be compiled, and its rows read, by somebody else's enum."""
    one, other = (sa.select(sa.column("c", StrEnum(values))) for values in (("a", "b"), ("a", "c")))
    assert one._generate_cache_key() != other._generate_cache_key()
    assert (
        sa.select(sa.column("c", ExactDecimal(9, 2)))._generate_cache_key()
        != sa.select(sa.column("c", ExactDecimal(9, 3)))._generate_cache_key()
    )
