"""What a statement says: a name where a name stands, and never a value of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefiq_db.translation.statement_names import may_define, read_statement, without_values

DIALECTS = ("postgresql", "mariadb", "sqlite")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql",
    [
        "select here from t",
        "select t.here from t",
        "select 1 from t where here = 1",
        "select 1 from t where a = 1 and here = 2 or x between 1 and 2 and here > 1",
        "select 1 from t join u on t.id = u.here",
        "select 1 from t where a = here(1)",
        "select 1 from t where a in (select here from u)",
        "insert into t (a, here) values (:a, :b)",
        "update t set a = 1, here = 2",
        "select a from t order by a, here desc",
        "select a from t group by here having count(*) > 1",
        "create table t (a int, here int)",
        "select /* 'x */ here from t -- '",
        "select count(here), sum(b) from t",
        "select t.*, here from t",
        "select * from t where here in (1, 2) and (b = 1 or here = 2)",
        "SELECT Here FROM t",
        "insert into t (a, here) select 1, 2",
        "insert into t (a) select here from u",
        "select 1 from t where a = (select max(here) from u where u.b = 1)",
        "select 1 from t union select here from u",
        "with u as (select here from t) select 1 from u",
    ],
)
def test_what_stands_where_a_name_does_is_a_name(sql: str, dialect: str) -> None:
    """In every clause, on every database."""
    written = read_statement(sql, None, dialect)
    assert written is not None
    assert written.says("here")
    assert not written.doubts("here")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "sql",
    [
        "select 1 from t where a = hidden",
        "select 1 from t where a <> hidden",
        "select 1 from t where a like hidden",
        "select 1 from t where a in (1, hidden)",
        "select 1 from t where a between hidden and 2",
        "select 1 from t where a between 1 and hidden",
        "select 1 from t where a = lower(hidden)",
        "select 1 from t where a = (hidden)",
        "select 1 from t where a = hidden.com",
        "select 1 from t where a = com.hidden",
        "insert into t values (1, hidden)",
        "insert into t (a) values (1), (hidden)",
        "insert into t values (upper(hidden))",
        "update t set a = 1, b = hidden",
        "create table t (a text default hidden)",
        "select case when a = 1 then hidden else hidden end from t",
        "select a from t limit hidden",
        "insert into t values row(1, hidden)",
        "select 1 from t where (a, b) = (1, hidden)",
        "select a * hidden from t",
        "select hidden",
        "select lower(hidden), 1",
        "insert into t (a, b) select hidden, 3",
        "insert into t (a) select hidden union all select 1",
        "insert into t (a, b) select hidden, 3 where not exists (select 1 from t where a = 'x')",
        "insert into t (a) values ((select hidden))",
        "select 1 from t where a = (select hidden)",
        "select 1 from t where a in (select hidden)",
        "insert into t (a) select hidden on conflict (a) do update set a = 1",
        "select (select extract(year from hidden)) from t",
        "call ship(1, hidden)",
        "call ship(lower(hidden))",
    ],
)
def test_a_forgotten_quote_makes_no_name(sql: str, dialect: str) -> None:
    """Where a value would stand, a bare word is one as likely as not."""
    written = read_statement(sql, None, dialect)
    assert written is not None
    assert not written.says("hidden")
    assert written.doubts("hidden")


@pytest.mark.parametrize(
    ("sql", "dialect", "is_name"),
    [
        ('select "x" from t', "postgresql", False),  # who quotes that, has MariaDB's strings in mind
        ('select 1 from t where "x" = a', "postgresql", False),
        ('select "X" from t', "postgresql", True),
        ('update t set "x" = 1', "postgresql", True),
        ('select 1 from "x"', "postgresql", True),
        ('select 1 from t where a = "x"', "postgresql", False),
        ('select concat(a, "x") from t', "postgresql", False),
        ('select max(t."x") from t', "postgresql", True),
        ('insert into t (a, "x") values (1, 2)', "postgresql", True),
        ('insert into t (a) values (1) on conflict ("x") do nothing', "postgresql", True),
        ('select "x" from t', "mariadb", False),
        ("select `x` from t", "mariadb", True),
        ("select 1 from t where a = `x`", "mariadb", False),
        ('select "x" from t', "sqlite", False),  # a string, when no column is called x
        ('select t."x" from t', "sqlite", True),
        ('select 1 from "x"', "sqlite", True),
        ("select [x] from t", "sqlite", True),
        ("select $$x$$, e'x', 'x'", "postgresql", False),
        (r"select 'it\'s x'", "mariadb", False),
        ("select 1 /* x */ -- x", "postgresql", False),
        ("select x from t where a = 'x'", "postgresql", False),  # it is a value, too
    ],
)
def test_quotes_are_read_as_the_database_reads_them(sql: str, dialect: str, is_name: bool) -> None:
    """Double quotes make a name on one database and a string on the next."""
    written = read_statement(sql, None, dialect)
    assert written is not None
    assert written.says("x") is is_name


@given(value=st.text(st.characters(categories=["L"]), min_size=1, max_size=12), dialect=st.sampled_from(DIALECTS))
def test_a_value_is_never_a_name(value: str, dialect: str) -> None:
    """Not as a literal, not as a parameter, one or of many, whatever else the statement says."""
    sql = f"select {value} from {value} where a = '{value}'"
    literal = read_statement(sql, None, dialect)
    bound = read_statement(f"select {value} from t where a = :a", {"a": value}, dialect)
    many = read_statement(f"insert into {value} values (?)", [(1, "b"), (2, [value.encode()])], dialect)
    for written in (literal, bound, many):
        assert written is not None
        assert not written.says(value)
        assert written.quotes(value)


def test_a_sentence_about_a_definition_is_told_without_its_values() -> None:
    """Literals, words where a value would stand, and long numbers; whole words only."""
    written = read_statement("create table item (a int default 'secret', check (a > bare))", None, "postgresql")
    assert written is not None
    assert written.is_ddl
    said = without_values("table item: secret, bare and 123456 don't fit, secretary does (150)", written)
    assert said == "table item: ?, ? and ? don't fit, secretary does (150)"


def test_what_runs_a_query_is_no_plain_definition() -> None:
    """What it calls may write the message."""
    for sql in ("create table t as select f()", "do $$ begin end $$", "select 1", "call drop_it()"):
        written = read_statement(sql, None, "postgresql")
        assert written is not None
        assert not written.is_ddl


def test_a_text_of_any_length_is_read_or_left_alone() -> None:
    """An error's name isn't worth a second."""
    assert read_statement("select 1" + " " * 200_000, None, "sqlite") is None
    assert read_statement("(" * 50_000 + ")" * 60_000, None, "sqlite") is None
    assert read_statement(")" * 500 + "(" * 500, None, "sqlite") is not None
    assert read_statement("select 1", None, "mongodb") is None


_PIECES = st.sampled_from(
    [
        "select",
        "values",
        "(",
        ")",
        ",",
        "'",
        '"',
        "`",
        "[",
        "]",
        "$$",
        "$a$",
        "E'",
        "--",
        "/*",
        "*/",
        ".",
        "=",
        "x",
        " ",
        "\\",
    ]
)


@given(sql=st.one_of(st.text(), st.lists(_PIECES).map("".join)), dialect=st.sampled_from([*DIALECTS, "mysql"]))
def test_any_text_is_read(sql: str, dialect: str) -> None:
    """It is read for an error's sake, and must not be in its way."""
    written = read_statement(sql, [{"a": b"\xff"}], dialect)
    assert (written is None) is (not sql)
    if written is not None:
        assert not written.values & {word for word in written.names if written.says(word)}
        without_values(sql, written)
        may_define(sql)
