"""Decimals on three databases: SQL gives what Python's Decimal gives, or refuses and says how to write it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefiq_db.errors import CheckViolationError, DataError, SchemaError, UnsupportedError, UsageError
from prefiq_db.types import ExactDecimal, Money
from tests.conftest import Backend
from tests.twins.support import assert_silent

metadata = sa.MetaData()
acc = sa.Table(
    "acc",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("n", Money),
    sa.Column("tax", ExactDecimal(12, 2)),
    sa.Column("qty", sa.Integer),
    sa.CheckConstraint("n >= -1000000 AND n <= 1000000", name="ck_acc_n"),
    sa.UniqueConstraint("n", name="uq_acc_n"),
)
n, tax, qty = acc.c.n, acc.c.tax, acc.c.qty
AMOUNTS = [Decimal(text) for text in ("0.1", "10", "9.5", "-3", "5", "0.3", "2.675", "100000.0001")]


@pytest.fixture
def store(db: Any, run: Callable[[Any], Any]) -> Any:
    run(db.execute(sa.schema.CreateTable(acc)))
    rows = [{"id": i, "n": amount, "tax": Decimal("0.19"), "qty": 3} for i, amount in enumerate(AMOUNTS)]
    run(db.execute_many(sa.insert(acc), [*rows, {"id": 99, "n": None, "tax": None, "qty": None}]))
    return db


def where(holds: Callable[[Decimal], bool]) -> set[int]:
    return {i for i, amount in enumerate(AMOUNTS) if holds(amount)}


async def ids(store: Any, statement: Any, params: Any = None) -> set[int]:
    return {row[0] for row in await store.fetch_all(statement, params)}


# --- Core ----------------------------------------------------------------------------------------

CORE: dict[str, tuple[Any, Callable[[Decimal], bool]]] = {
    "a product": (n * qty >= Decimal("0.3"), lambda v: v * 3 >= Decimal("0.3")),
    "a product, equal": (n * qty == Decimal("0.3"), lambda v: v * 3 == Decimal("0.3")),
    "a product, not more": (n * qty <= Decimal("0.9"), lambda v: v * 3 <= Decimal("0.9")),
    "a sum": (n + Decimal("0.2") == Decimal("0.3"), lambda v: v + Decimal("0.2") == Decimal("0.3")),
    "a difference": (1 - n > Decimal("0.7"), lambda v: 1 - v > Decimal("0.7")),
    "two columns of different scale": (n - tax < tax, lambda v: v - Decimal("0.19") < Decimal("0.19")),
    "scales multiply": (n * tax == Decimal("0.50825"), lambda v: v * Decimal("0.19") == Decimal("0.50825")),
    "coalesce": (sa.func.coalesce(n, 0) <= Decimal("9.5"), lambda v: v <= Decimal("9.5")),
    "coalesce with a Decimal": (sa.func.coalesce(n, Decimal("0.5")) > 5, lambda v: v > 5),
    "case": (sa.case((n > 5, n), else_=Decimal(0)) >= Decimal("9.5"), lambda v: v >= Decimal("9.5")),
    "round": (sa.func.round(n, 2) == Decimal("2.68"), lambda v: v == Decimal("2.675")),
    "an int": (n > 9, lambda v: v > 9),
    "negated": (-n > 0, lambda v: v < 0),
    "another scale": (n > tax, lambda v: v > Decimal("0.19")),
    "in": (n.in_([Decimal("0.10"), 5]), lambda v: v in (Decimal("0.1"), 5)),
    "more digits than the column": (n < Decimal("2.67500001"), lambda v: v < Decimal("2.67500001")),
    "deep": ((n + 1) * qty - n * 2 == n + 3, lambda v: True),
}


@pytest.mark.parametrize("name", CORE)
async def test_core_finds_the_rows_that_decimals_find(store: Any, name: str) -> None:
    condition, holds = CORE[name]
    found = await ids(store, sa.select(acc.c.id).where(condition, n.is_not(None)))
    assert found == where(holds)


async def test_core_sorts_groups_and_aggregates_as_numbers(store: Any) -> None:
    """Bare ORDER BY, DISTINCT, GROUP BY, HAVING, min, max, sum, sum of a product, windows, joins and unions."""

    async def values(statement: Any) -> list[Any]:
        return [row[0] for row in await store.fetch_all(statement)]

    here = sa.select(n).where(n.is_not(None))
    assert await values(here.order_by(n)) == sorted(AMOUNTS)
    assert await values(here.order_by(n.desc()).limit(1)) == [max(AMOUNTS)]
    totals = sa.select(sa.func.min(n), sa.func.max(n), sa.func.sum(n), sa.func.sum(n * qty), sa.func.sum(tax))
    expected = (min(AMOUNTS), max(AMOUNTS), sum(AMOUNTS), sum(AMOUNTS) * 3, Decimal("0.19") * len(AMOUNTS))
    row = await store.fetch_one(totals)
    assert tuple(row) == expected
    assert {type(value) for value in row} == {Decimal}
    having = sa.select(qty).group_by(qty).having(sa.func.sum(n) == sum(AMOUNTS))
    assert await values(having) == [3]
    assert await values(sa.select(n + tax).distinct().where(n == Decimal("0.1"))) == [Decimal("0.29")]
    running = sa.select(sa.func.sum(n).over(order_by=n)).where(n.in_([Decimal("0.1"), Decimal("0.3"), 5])).order_by(n)
    assert await values(running) == [Decimal("0.1"), Decimal("0.4"), Decimal("5.4")]
    other = acc.alias()
    join = sa.select(sa.func.count()).select_from(acc.join(other, n == other.c.n))
    assert await store.fetch_value(join) == len(AMOUNTS)
    both = sa.union_all(sa.select(n).where(n == 5), sa.select(n + Decimal("0.2")).where(n == Decimal("0.1")))
    assert sorted(await values(both)) == [Decimal("0.3"), Decimal(5)]
    assert await store.fetch_value(sa.select(sa.func.sum(n)).where(n > 999999)) is None


async def test_what_core_writes_is_exact(store: Any) -> None:
    """0.1 + 0.2 is 0.3, found by it and by nothing beside it; INSERT ... SELECT and UPDATE alike."""
    await store.execute(sa.delete(acc).where(n == Decimal("0.3")))
    await store.execute(sa.update(acc).where(acc.c.id == 0).values(n=n + Decimal("0.2")))
    assert await ids(store, sa.select(acc.c.id).where(n == Decimal("0.3"))) == {0}
    copied = sa.select(acc.c.id + 200, n * qty).where(acc.c.id == 0)
    await store.execute(sa.insert(acc).from_select(["id", "n"], copied))
    assert await store.fetch_value(sa.select(n).where(acc.c.id == 200)) == Decimal("0.9")
    assert await ids(store, "select id from acc where n = :x", {"x": Decimal("0.9")}) == {200}


amounts = st.integers(-(10**9), 10**9).map(lambda units: Decimal(units).scaleb(-4))
rates = st.integers(-(10**5), 10**5).map(lambda units: Decimal(units).scaleb(-2))
COMPARE = {"lt": operator.lt, "le": operator.le, "eq": operator.eq, "ne": operator.ne}
CALCULATE = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


async def test_random_calculations_are_pythons(store: Any, run: Callable[[Any], Any], world: str) -> None:
    """Python's own decimals are the oracle, for what is read and for what is found."""

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(amounts, rates, st.integers(-50, 50), st.lists(st.sampled_from(sorted(CALCULATE)), min_size=2, max_size=2))
    def calculate(amount: Decimal, rate: Decimal, count: int, names: list[str]) -> None:
        first, second = (CALCULATE[name] for name in names)
        expected = second(first(amount, rate), count)
        given_row = sa.select(
            sa.literal(amount, Money()).label("a"), sa.literal(rate, ExactDecimal(12, 2)).label("r"),
            sa.literal(count, sa.Integer).label("q"),
        ).subquery()  # fmt: skip
        result = second(first(given_row.c.a, given_row.c.r), given_row.c.q)
        columns = [result, *(sa.case((op(result, expected), 1), else_=0) for op in COMPARE.values())]
        examples.append((sa.select(*columns), [expected, *(int(op(expected, expected)) for op in COMPARE.values())]))

    examples: list[tuple[Any, list[Any]]] = []
    calculate()
    for statement, expected in examples:
        assert list(await store.fetch_one(statement)) == expected


async def test_a_result_beyond_sqlites_digits_is_refused(store: Any, backend: Backend) -> None:
    """Never a wrong number: on SQLite an error of ours, without the value, wherever the number would be used."""
    big = sa.literal(Decimal("99999999999.9999"), Money())
    for statement in (
        sa.select(big + Decimal("0.0001")),
        sa.select(acc.c.id).where(n + big > 0),
        sa.select(sa.func.sum(big * qty)),
    ):
        if backend.name == "sqlite":
            with pytest.raises((UnsupportedError, DataError)) as caught:
                await store.fetch_all(statement)
            assert_silent(caught.value, "99999999999")
        else:
            assert await store.fetch_all(statement)


async def test_what_sqlite_cannot_calculate_exactly_is_refused_with_the_way(store: Any, backend: Backend) -> None:
    for expression in (n / 3, n / tax, n % 2, n * sa.literal_column("1.5"), n + sa.cast(qty, sa.Double)):
        if backend.name == "sqlite":
            with pytest.raises(UnsupportedError, match=r"cast|type_coerce"):
                await store.fetch_all(sa.select(expression))
        else:
            assert await store.fetch_all(sa.select(expression).where(n == 5))


class Price(sa.types.TypeDecorator[Decimal]):
    """A type of a service's own, around ours."""

    impl = Money
    cache_ok = True


async def test_a_type_around_ours_is_as_exact(store: Any, backend: Backend) -> None:
    own = sa.Table(
        "priced",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("p", Price),
    )
    await store.execute(sa.schema.CreateTable(own))
    await store.execute_many(sa.insert(own), [{"id": i, "p": Decimal(p)} for i, p in enumerate(("0.1", "0.2"))])
    assert await store.fetch_value(sa.select(sa.func.sum(own.c.p)).having(sa.func.sum(own.c.p) == Decimal("0.3"))) == (
        Decimal("0.3")
    )
    assert await store.fetch_value(sa.select(own.c.id).where(own.c.p + Decimal("0.2") == Decimal("0.3"))) == 0
    if backend.name == "sqlite":
        with pytest.raises(CheckViolationError):
            await store.execute("update priced set p = p + 0.2 where id = 0")


# --- text ----------------------------------------------------------------------------------------

TEXT: dict[str, tuple[str, Callable[[Decimal], bool]]] = {
    "a literal": ("n > 9.5", lambda v: v > Decimal("9.5")),
    "a column": ("n >= :x", lambda v: v >= Decimal("0.3")),
    "equal": ("n = :x", lambda v: v == Decimal("0.3")),
    "coalesce": ("coalesce(n, 0) >= :x and n is not null", lambda v: v >= Decimal("0.3")),
    "case": ("case when n > 5 then n else 0 end >= :x", lambda v: v > 5),
    "a rounded product": ("round(n * qty, 4) = :x", lambda v: v == Decimal("0.1")),
    "a rounded product, not more": ("round(n * qty, 4) <= :x", lambda v: v * 3 <= Decimal("0.3")),
    "a rounded sum": ("round(n + :x, 4) = 0.6", lambda v: v == Decimal("0.3")),
    "between": ("n between 0 and :x", lambda v: 0 <= v <= Decimal("0.3")),
    "half away from zero": ("round(n, 2) = 2.68", lambda v: v == Decimal("2.675")),
    "halves of whole numbers": ("n / 2 = 2.5", lambda v: v == 5),
}


@pytest.mark.parametrize("name", TEXT)
async def test_text_finds_the_rows_that_decimals_find(store: Any, name: str) -> None:
    condition, holds = TEXT[name]
    params = {"x": Decimal("0.30")} if ":x" in condition else None
    statement = f"select id from acc where {condition} and n is not null"
    assert await ids(store, statement, params) == where(holds)
    typed = sa.text(statement).bindparams(**params) if params else sa.text(statement)
    assert await ids(store, typed) == where(holds)


few = sa.func.coalesce(acc.c.id, 0) < 2  # 0.1 and 10
TOTAL, TINY = Decimal("10.1"), Decimal("0.00001")
inner = sa.select(sa.func.round(n, 1).label("r"), sa.case((qty > 3, 0), else_=n).label("c")).where(few).subquery()

MONEY: dict[str, tuple[Any, Decimal]] = {
    "coalesce of a sum": (sa.func.coalesce(sa.func.sum(n), Decimal(0)), TOTAL),
    "coalesce of no sum": (sa.func.coalesce(sa.func.sum(n).filter(qty > 3), Decimal("0.00")), Decimal(0)),
    "sum of a case": (sa.func.sum(sa.case((acc.c.id == 0, n), else_=Decimal(0))), Decimal("0.1")),
    "sum of a case, more digits": (sa.func.sum(sa.case((acc.c.id == 0, n), else_=TINY)), Decimal("0.10001")),
    "sum of a case, an int first": (sa.func.sum(sa.case((qty > 3, 0), else_=n * 3)), TOTAL * 3),
    "sum of round": (sa.func.sum(sa.func.round(n, 1) * 3), TOTAL * 3),
    "sum of abs": (sa.func.sum(sa.func.abs(-n * 3)), TOTAL * 3),
    "a literal": (sa.func.max(n + sa.literal(Decimal("0.2"))), Decimal("10.2")),
    "two literals": (sa.func.max(sa.literal(Decimal("0.1")) + sa.literal(Decimal("0.2"))), Decimal("0.3")),
    "a literal less": (sa.func.min(sa.literal(Decimal("0.3")) - n), Decimal("-9.7")),
    "a literal times": (sa.func.min(sa.literal(Decimal("1.1")) * n), Decimal("0.11")),
    "round and a column": (sa.func.min(sa.func.round(n, 1) + tax - Decimal("0.09")), Decimal("0.2")),
    "round less a column": (sa.func.max(sa.func.round(n, 0) - n), Decimal(0)),
    "abs": (sa.func.abs(sa.func.min(n) - Decimal("0.3")), Decimal("0.2")),
    "nullif": (sa.func.nullif(sa.func.sum(n), Decimal(7)), TOTAL),
    "max of round": (sa.func.max(sa.func.round(n, 2)), Decimal(10)),
    "an int first": (sa.func.coalesce(sa.func.nullif(sa.func.max(qty), 3), sa.func.sum(n)), TOTAL),
    "an integer times a Decimal": (sa.func.sum(qty * Decimal("0.1")), Decimal("0.6")),
    "cast to fewer digits": (sa.func.max(sa.cast(n * Decimal("0.25"), ExactDecimal(9, 1))), Decimal("2.5")),
    "cast and compared": (sa.func.sum(sa.case((sa.cast(n, ExactDecimal(9, 0)) == 0, n), else_=0)), Decimal("0.1")),
}


@pytest.mark.parametrize("name", MONEY)
async def test_everyday_sums_are_decimals_and_exact(store: Any, backend: Backend, name: str) -> None:
    expression, expected = MONEY[name]
    if backend.name == "mariadb" and "FILTER" in str(expression):
        return  # no FILTER there
    found = await store.fetch_value(sa.select(expression).where(few))
    assert (type(found), found) == (Decimal, expected)
    equal = sa.select(sa.func.count()).select_from(sa.select(expression.label("x")).where(few).subquery())
    assert await store.fetch_value(equal) == 1
    assert await store.fetch_value(sa.select(sa.func.count(qty)).where(few).having(expression == expected)) == 2
    assert await store.fetch_value(sa.select(sa.func.count(qty)).where(few).having(expression != expected)) is None


async def test_what_a_subquery_rounds_is_a_decimal_outside(store: Any) -> None:
    for column in (inner.c.r, inner.c.c):
        found = await store.fetch_one(sa.select(sa.func.sum(column * 3), sa.func.min(column), sa.func.max(column - 1)))
        assert {type(value) for value in found} == {Decimal}
        assert found[0] == TOTAL * 3
    rows = await store.fetch_all(sa.select(inner.c.r).order_by(inner.c.r))
    assert [(type(row[0]), row[0]) for row in rows] == [(Decimal, Decimal("0.1")), (Decimal, Decimal(10))]


async def test_a_cast_to_an_integer_rounds(store: Any) -> None:
    await store.execute(sa.delete(acc).where(acc.c.id != 0))
    for amount, expected in (("1234.5678", 1235), ("-2.5", -3), ("2.4999", 2), ("99999999999.5", 100000000000)):
        number = sa.literal(Decimal(amount), Money())
        assert await store.fetch_value(sa.select(sa.cast(number, sa.BigInteger))) == expected


async def test_the_same_statement_with_another_value_is_as_exact(store: Any) -> None:
    """The control of what is cached: one statement is written once for literals of any scale."""
    for text in ("0.2", "0.00002", "7", "0.123456789"):
        summed = sa.select(sa.func.sum(sa.case((acc.c.id == 0, n), else_=Decimal(text)))).where(few)
        added = sa.select(n + sa.literal(Decimal(text))).where(acc.c.id == 0)
        for statement in (summed, added):
            assert await store.fetch_value(statement) == Decimal("0.1") + Decimal(text)


async def test_floats_stay_floats(store: Any) -> None:
    """The control: where a float takes part, or its type is asked for, nothing is said to be a decimal."""
    ratio = sa.cast(n, sa.Double)
    for expression in (sa.func.round(sa.cast(qty, sa.Double)), sa.func.abs(ratio), ratio * 3):
        found = await store.fetch_value(sa.select(expression).where(acc.c.id == 0))
        assert isinstance(found, float)
    assert type(await store.fetch_value(sa.select(sa.func.abs(qty)).where(acc.c.id == 0))) is int


@pytest.mark.parametrize(
    ("given_number", "digits", "expected"),
    [
        ("1234.5678", -2, 1200),
        ("1250", -2, 1300),
        ("-1250.5", -2, -1300),
        ("49", -2, 0),
        ("50", -2, 100),
        ("50", -9, 0),
        ("1234.5678", 0, 1235),
        ("1234.5678", 3, "1234.568"),
        ("2.675", 2, "2.68"),
        ("1234.5", 29, "1234.5"),
    ],
)
async def test_round_rounds_before_and_after_the_point(
    store: Any, given_number: str, digits: int, expected: Any
) -> None:
    await store.execute(sa.delete(acc).where(acc.c.id != 99))
    await store.execute(sa.update(acc).values(n=Decimal(given_number)))
    rounded = sa.func.round(n, digits, type_=Money())
    assert await store.fetch_value(sa.select(rounded).where(acc.c.id == 99)) == Decimal(expected)
    found = f"select id from acc where id = 99 and round(n, {digits}) = :x"
    assert await ids(store, found, {"x": Decimal(expected)}) == {99}


@pytest.mark.parametrize(
    "sql",
    [
        "select id from acc where n * qty >= :x",
        "select id from acc where :x <= n * qty",
        "update acc set n = n + :x where id = 1",
        "select qty from acc group by qty having sum(n) > :x",
        "select case when n > 5 then n * 2 else 0 end from acc where coalesce(n * 2, 0) > :x",
        "select sum(n) - :x from acc",
    ],
)
async def test_text_beside_what_sqlite_calculates_is_refused_with_the_way(
    store: Any, backend: Backend, sql: str
) -> None:
    """The same in params, in bindparams, with a type, in sessions; elsewhere it is right."""
    params = {"x": Decimal("0.3")}
    texts = [
        (sql, params),
        (sa.text(sql).bindparams(**params), None),
        (sa.text(sql).bindparams(sa.bindparam("x", type_=Money)), params),
    ]
    for statement, given_params in texts:
        if backend.name != "sqlite":
            await store.execute(statement, given_params)
            continue
        with pytest.raises(UsageError, match=r"bind 'x': .*round\(") as caught:
            await store.execute(statement, given_params)
        assert_silent(caught.value, "0.3")
        with pytest.raises(UsageError, match="bind 'x'"):
            async with store.transaction() as tx:
                await tx.execute(statement, given_params)


async def test_the_float_itself_would_find_other_rows(store: Any, backend: Backend) -> None:
    """The control: sent as a float, or as the text that it was once sent as, the number finds the wrong rows."""
    if backend.name != "sqlite":
        assert await ids(store, "select id from acc where n * qty <= :x and n = 0.1", {"x": Decimal("0.3")}) == {0}
        return
    for wrong in (0.3, "9.5"):
        found = await ids(store, "select id from acc where n * qty <= :x and n is not null", {"x": wrong})
        assert found != where(lambda v: v * 3 <= Decimal(str(wrong)))  # noqa: B023 - called at once


async def test_an_inexact_number_is_never_stored(store: Any, backend: Backend) -> None:
    """A text that calculates with literals: SQLite's column refuses the float; rounded, it is the decimal."""
    calculated = "update acc set n = n + 0.7 where id = 0"
    rounded = "update acc set n = round(n + 0.7, 4) where id = 0"
    await store.execute("update acc set n = 0.1 where id = 0")
    if backend.name == "sqlite":
        with pytest.raises(CheckViolationError):
            await store.execute(calculated)
        await store.execute(rounded)
    else:
        await store.execute(calculated)
    assert await ids(store, sa.select(acc.c.id).where(n == Decimal("0.8"))) == {0}


async def test_checks_written_as_text_compare_numbers(store: Any) -> None:
    """``n >= -1000000 AND n <= 1000000``: 5 is within, and what is without is refused."""
    for amount in (Decimal("1000000.0001"), Decimal("-1000001")):
        for statement in (sa.insert(acc).values(id=500, n=amount), "insert into acc (id, n) values (500, :x)"):
            with pytest.raises(CheckViolationError):
                await store.execute(statement, {"x": amount} if isinstance(statement, str) else None)


async def test_columns_of_the_users_own_ddl_take_and_compare_decimals(store: Any, backend: Backend) -> None:
    """``numeric(10,2)`` in text DDL: stored and compared as on the others, refused beside what is calculated."""
    await store.execute("create table own (id integer, p numeric(10,2), word varchar(20))")
    rows = [{"id": i, "p": Decimal(p)} for i, p in enumerate(("0.10", "9.50", "10"))]
    await store.execute_many("insert into own (id, p) values (:id, :p)", rows)
    assert await ids(store, "select id from own where p > :x", {"x": Decimal("9.5")}) == {2}
    assert await ids(store, "select id from own where coalesce(p, 0) <= :x", {"x": Decimal("9.50")}) == {0, 1}
    assert await ids(store, "select id from own where round(p * 3, 2) <= :x", {"x": Decimal("0.3")}) == {0}
    if backend.name == "sqlite":
        with pytest.raises(UsageError, match="round"):
            await store.fetch_all("select id from own where p * 3 <= :x", {"x": Decimal("0.3")})
    await store.execute("update own set word = :x where id = 1", {"x": Decimal("12.50")})
    word = await store.fetch_value("select word from own where id = 1")
    assert word == ("12.5" if backend.name == "sqlite" else "12.50")


async def test_a_number_of_more_digits_is_refused_on_sqlite_only(store: Any, backend: Backend) -> None:
    wide = Decimal("1234567890.1234567")
    if backend.name == "sqlite":
        for statement in ("select id from acc where n = :x", "insert into acc (id, n) values (900, :x)"):
            with pytest.raises(UsageError, match="15 digits") as caught:
                await store.execute(statement, {"x": wide})
            assert_silent(caught.value, "1234567")
    else:
        assert await ids(store, "select id from acc where n = :x", {"x": wide}) == set()


@pytest.mark.parametrize("number", ["NaN", "sNaN", "Infinity", "-Infinity"])
async def test_what_is_no_number_is_refused_where_the_database_has_none(
    store: Any, backend: Backend, number: str
) -> None:
    if backend.name == "postgresql":
        return
    with pytest.raises(UsageError, match="bind 'x'"):
        await store.fetch_all("select id from acc where n = :x", {"x": Decimal(number)})


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.sqlite
async def test_other_programs_see_the_numbers(tmp_path: Any) -> None:
    """Without a function of ours: they read, compare, sort and write, and the column refuses what is no decimal."""
    import sqlite3

    from prefiq_db import Database

    with Database(f"sqlite:///{tmp_path}/file.db") as db:
        db.execute(sa.schema.CreateTable(acc))
        db.execute(sa.schema.CreateIndex(sa.Index("ix_acc_tax", tax)))
        db.execute(sa.insert(acc).values(id=1, n=Decimal("9.5"), tax=Decimal("0.19")))
    other = sqlite3.connect(tmp_path / "file.db")
    assert other.execute("select n, tax from acc where n > 9 and n * 1 <= 9.5").fetchall() == [(9.5, 0.19)]
    other.execute("insert into acc (id, n) values (2, '10.25'), (3, 7)")
    with pytest.raises(sqlite3.IntegrityError):
        other.execute("insert into acc (id, n) values (4, 0.1 + 0.2)")
    other.commit()
    other.close()
    with Database(f"sqlite:///{tmp_path}/file.db") as db:
        found = db.fetch_all(sa.select(n).order_by(n))
        assert [str(row[0]) for row in found] == ["7.0000", "9.5000", "10.2500"]
        plan = db.fetch_all("explain query plan select id from acc where tax = 0.19")
        assert "ix_acc_tax" in str(plan)
        reflected = sa.Table("acc", sa.MetaData(), autoload_with=db.engine)
        assert isinstance(reflected.c.n.type, ExactDecimal)
        assert (reflected.c.n.type.precision, reflected.c.n.type.scale) == (19, 4)


@pytest.mark.sqlite
async def test_a_column_of_texts_is_an_error_that_says_what_to_run(store: Any, backend: Backend) -> None:
    """A table of an earlier version: never a wrong number from it, selected, calculated or summed."""
    if backend.name != "sqlite":
        return
    await store.execute("create table old (id integer, n varchar(21))")
    await store.execute("insert into old values (1, '4711.0000'), (2, '9.0000')")
    old = sa.table("old", sa.column("n", Money()))
    select = sa.select(sa.func.count())
    for statement in (
        *(sa.select(expression) for expression in (old.c.n, old.c.n + 1, sa.func.sum(old.c.n), sa.func.max(old.c.n))),
        *(select.where(condition) for condition in (old.c.n > 9, old.c.n == Decimal(9), old.alias().c.n > 9)),
        sa.insert(old).values(n=Decimal(1)),
        sa.update(old).values(n=Decimal(1)),
        sa.select(sa.literal(1)).order_by(old.c.n),
    ):
        with pytest.raises(SchemaError, match=r"old\.n .*decimals_to_numbers") as caught:
            await store.fetch_all(statement)
        assert_silent(caught.value, "4711")
