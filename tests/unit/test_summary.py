"""Summaries: operations and tables of a text, and nothing that is written inside a literal or a comment."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.insight.summary import describe, fingerprint

DIALECTS = ["sqlite", "postgresql", "mariadb"]


def summary(sql: str, dialect: str) -> str:
    return describe(sql, None, dialect).summary


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select 1", "SELECT"),
        ("select * from orders", "SELECT orders"),
        ("select'x'from orders", "SELECT orders"),
        ("select * from /* why */ orders -- here\n where a = 1", "SELECT orders"),
        ("select * from shop.orders o join customers as c on o.id = c.id", "SELECT orders customers"),
        ("select * from a left join b using (id) cross join c", "SELECT a b c"),
        ("select * from a, b x, c as y where a.i = 1 and f(1, 2)", "SELECT a b c"),
        ("select a, b from t order by a, b", "SELECT t"),
        ("with w as (select id from t) select * from w", "SELECT t SELECT w"),
        ("insert into audit select * from orders", "INSERT audit SELECT orders"),
        ("insert into t (a, b) values (:a, 'from x')", "INSERT t"),
        ("update t set a = 1, b = 2 where c in (select d from u)", "UPDATE t SELECT u"),
        ("delete from t where a = ?", "DELETE t"),
        ("select extract(year from placed) from orders", "SELECT orders"),
        ("select extract(year from (select max(a) from t)) from u", "SELECT SELECT t u"),
        ("select trim(name), substring(a, 1) from orders", "SELECT orders"),
        ("select trim('x' from name) from orders", "SELECT orders"),
        ("select a is distinct from b from orders", "SELECT orders"),
        ("select * from orders for update", "SELECT orders"),
        ("create table if not exists t (id int)", "CREATE t"),
        ("alter table t add x int", "ALTER t"),
        ("drop table if exists t", "DROP t"),
        ("truncate table t", "TRUNCATE t"),
        ("set names utf8mb4", "SET"),
    ],
)
def test_operations_and_tables(sql: str, expected: str, dialect: str) -> None:
    """Ordinary statements have the same summary on all databases."""
    assert summary(sql, dialect) == expected


@pytest.mark.parametrize(
    ("sql", "dialect"),
    [
        ('select * from "my orders" join "a.b"."c.d"', "postgresql"),
        ('select * from "my orders" join "a.b"."c.d"', "sqlite"),
        ("select * from `my orders` join `a.b`.`c.d`", "sqlite"),
        ("select * from [my orders] join [a.b].[c.d]", "sqlite"),
        ("select * from `my orders` join `a.b`.`c.d`", "mariadb"),
    ],
)
def test_quoted_names_are_tables(sql: str, dialect: str) -> None:
    """Each with the quotes of its database, and a dot inside them is no border."""
    assert describe(sql, None, dialect).tables == ("my orders", "c.d")


@pytest.mark.parametrize(
    ("sql", "dialect"),
    [
        ("select 'C:\\', ' from hunter2'", "sqlite"),
        ("select 'C:\\', ' from hunter2'", "postgresql"),
        ("select 1 /* a /* b */ from hunter2 */", "postgresql"),
        ("select 1 # from hunter2", "mariadb"),
        ('select " from hunter2"', "mariadb"),
        ('select "x\\" from hunter2"', "mariadb"),
        ("select 'it\\'s from hunter2'", "mariadb"),
        ("select $a$ ' from hunter2 $a$", "postgresql"),
        ('select a is distinct from "hunter2"', "sqlite"),
        ('vacuum into "hunter2"', "sqlite"),
        ('select " from hunter2', "postgresql"),
        ("select 1 -- from hunter2", ""),
    ],
)
def test_no_literal_is_in_a_summary(sql: str, dialect: str) -> None:
    """What a literal holds depends on the dialect."""
    description = describe(sql, None, dialect)
    assert description.tables == ()
    assert "hunter2" not in description.summary


@given(
    st.lists(st.sampled_from(["select ", "'", "\\", ",", " from ", '"', "/*", "*/", "$$", "#", "--", "\n", "`"])),
    st.sampled_from([*DIALECTS, ""]),
)
def test_any_text_has_a_summary(parts: list[str], dialect: str) -> None:
    """Half a quote or comment is no error."""
    describe("".join(parts), None, dialect)


def test_text_constructs_are_read_as_text_too() -> None:
    """The dialect is heard for SQLAlchemy's text as well."""
    sql = "select 1 # from hunter2"
    assert describe(sql, sa.text(sql).compile(), "mariadb").tables == ()


@pytest.mark.parametrize(
    "value",
    [
        "%(a_1)s::VARCHAR", "%(a_1)s::VARCHAR(9)", "%(a_1)s::NUMERIC(10, 2)", "%(a_1)s::TIMESTAMP WITH TIME ZONE",
        "%(a_1)s::TIMESTAMP(3) WITHOUT TIME ZONE", "%(a_1)s::DOUBLE PRECISION", "%(a_1)s::VARCHAR[]",
        '%(a_1)s::shop."Mood of day"', "$1::character varying(9)",
    ],
)  # fmt: skip
def test_a_list_of_typed_values_is_a_list_of_any_length(value: str) -> None:
    prints = {fingerprint(f"select id from t where a in ({', '.join([value] * n)})", "postgresql") for n in (1, 2, 8)}
    assert prints == {fingerprint("select id from t where a in (%(a)s)", "postgresql")}
    assert fingerprint("select a::int from t", "postgresql") != fingerprint("select a::text from t", "postgresql")
