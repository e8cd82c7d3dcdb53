"""What a statement is, before it is sent: in doubt it is a write, and it never ends a transaction unseen."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.schema import CreateTable, DropTable

from prefiq_db.errors import StatementRefusedError, UsageError
from prefiq_db.execution.facts import as_executable, check_one_shot, facts_of, facts_of_text, reads_only

table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(10)))


@pytest.mark.parametrize(
    "sql",
    [
        "select 1",
        "SELECT id, name FROM t WHERE id IN (1, 2) AND name LIKE 'insert%'",
        "  -- insert\n  select /* delete */ 'update; drop' from t",
        "select count(*), max(id), coalesce(name, 'x') from t group by name having count(*) > 1",
        "with a as (select id from t) select * from a",
        "with recursive n as (select 1 as i union all select i + 1 from n where i < 9) select sum(i) from n",
        "(select 1) union all (select 2)",
        "select replace(name, 'a', 'b') from t",
        "select t.id from t join u on (t.id = u.id) where exists (select 1 from v)",
        "select row_number() over (partition by name order by id) from t",
        'select "insert", "t"."delete" from t',
        "select 1;",
        "select cast(id as varchar) from t",
    ],
)
def test_plain_reads_are_seen_as_reads(sql: str) -> None:
    """What provably changes nothing may be sent again."""
    assert facts_of_text(sql).reads_only
    assert reads_only(sa.text(sql.replace(":", "\\:")))


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "-- nothing",
        "insert into t values (1)",
        "update t set name = 'select'",
        "with d as (delete from t returning id) select * from d",
        "with d as (select 1) insert into t select * from d",
        "with x as (select 1) replace into t select * from x",
        "select 1; delete from t",
        "select nextval('s')",
        "select pg_advisory_lock(1)",
        "select \"nextval\"('s')",
        "select pg_catalog.nextval('s')",
        "select mine.lower('s')",
        "select next value for s",
        "select sleep(1), get_lock('a', 1)",
        "select my_function(id) from t",
        "select id into other from t",
        "select * from t for update",
        "select * from t for no key update",
        "select * from t lock in share mode",
        "select 'it\\'s', nextval('s') -- '",
        "select 1 /*! , nextval(s) */",
        "select 1--1, nextval(s)",
        "select 1 # nextval(s)",
        "explain analyze delete from t",
        "call p()",
        "values (1)",
        "pragma journal_mode = wal",
    ],
)
def test_what_may_write_is_never_taken_for_a_read(sql: str) -> None:
    """Data-changing words, locks, unknown functions and what servers read differently count as writes."""
    assert not facts_of_text(sql).reads_only


_QUOTES = ["'{}'", '"{}"', "`{}`", "/* {} */", "-- {}\n", "$${}$$"]
_word = st.sampled_from(["insert", "UPDATE", "Delete", "merge", "truncate"])
_filler = st.lists(
    st.one_of(
        st.sampled_from(["select", "from", "t", "where", "id", "=", "1", ",", "(", ")", "lower", "count", "*", "as"]),
        st.tuples(st.sampled_from(_QUOTES), st.sampled_from(["x", "insert", "its", ""])).map(
            lambda pair: pair[0].format(pair[1])
        ),
    ),
    max_size=8,
)


@given(before=_filler, word=_word, after=_filler)
def test_a_data_changing_word_outside_quotes_is_never_a_read(before: list[str], word: str, after: list[str]) -> None:
    """Whatever stands around it, quoted or not."""
    assert not facts_of_text(" ".join(["select", *before, word, *after])).reads_only


@given(st.text(alphabet="abi '\"`;$-/*#\\\n()", max_size=30))
def test_any_text_is_read_without_an_error(text: str) -> None:
    """Half a quote, half a comment or nothing at all: there is an answer, and the same one twice."""
    assert facts_of_text("select " + text) == facts_of_text("select " + text)


@pytest.mark.parametrize(
    ("sql", "control"),
    [
        ("begin", True),
        ("BEGIN IMMEDIATE", True),
        ("commit and chain", True),
        ("/**/ rollback", True),
        ("-- x\nsavepoint a", True),
        ("# x\ncommit", True),
        ("start transaction read only", True),
        ("end", True),
        ("abort", True),
        ("release savepoint a", True),
        ("xa start 'x'", True),
        ("prepare transaction 'x'", True),
        ("set autocommit = 0", True),
        ("set @@session.autocommit=1", True),
        ("/*!50000 commit */", True),
        ("/*M! commit */", True),
        ("set statement max_statement_time=1 for commit", True),
        ("update t set a = 1; commit", True),
        ("select 1; -- x\n begin", True),
        ("select 1; prepare transaction 'x'", True),
        ("select 1; create table t (id int); commit", True),
        ("create table t (id int); commit", True),
        ("do $$ begin perform 1; end $$; commit", True),
        ("select 1; set autocommit = 1", True),
        ("begin not atomic select 1; commit; end", False),  # one compound statement; MariaDB refuses COMMIT in it
        ("create trigger x after insert on t begin update t set a = 1; end", False),
        ("do $$ begin perform 1; end $$", False),
        ("select 'a; commit'", False),
        ("select begin from commit", False),
        ("set local statement_timeout = 1", False),
        ("prepare q as select 1", False),
        ("select 1; select 2", False),
    ],
)
def test_what_ends_a_transaction_is_seen(sql: str, control: bool) -> None:
    """Behind comments, semicolons and executable comments, too; and only there."""
    assert facts_of_text(sql).control is control


@pytest.mark.parametrize(
    ("sql", "ddl"),
    [
        ("create table t (id int)", True),
        ("ALTER TABLE t ADD x int", True),
        ("drop index i", True),
        ("truncate t", True),
        ("grant select on t to u", True),
        ("rename table a to b", True),
        ("optimize table t", True),
        ("create or replace table t (id int)", True),
        ("create unique index i on t (id)", True),
        ("set statement max_statement_time=1 for drop table t", True),
        ("select 1; drop table t", True),
        ("create temporary table t (id int)", False),
        ("drop temporary table t", False),
        ("insert into t values ('create table')", False),
        ("select 1", False),
    ],
)
def test_ddl_is_seen(sql: str, ddl: bool) -> None:
    """What commits on MariaDB, and not temporary tables, which don't."""
    assert facts_of_text(sql).ddl is ddl


def test_core_constructs_are_asked() -> None:
    """Facts of Core: DDL, row locks, reads with known functions; data changes hidden in a CTE, text in a select."""
    assert facts_of(CreateTable(table)).ddl
    assert facts_of(DropTable(table)).ddl
    assert facts_of(sa.select(table).with_for_update()).no_tomorrow
    assert reads_only(sa.select(table.c.id, sa.func.count()).where(table.c.name == "x").group_by(table.c.id))
    assert reads_only(sa.union_all(sa.select(table.c.id), sa.select(table.c.id)))
    assert reads_only(sa.select(sa.select(table.c.id).subquery()))
    changes = sa.delete(table).returning(table.c.id).cte("gone")
    for statement in (
        sa.insert(table),
        sa.select(changes),
        sa.select(table).with_for_update(),
        sa.select(sa.func.nextval("s")),
        sa.select(sa.text("nextval('s')")),
        sa.select(sa.literal_column("nextval('s')")),
        sa.union_all(sa.select(table.c.id), sa.select(table.c.id).with_for_update()),
        sa.select(table).where(table.c.id.in_(sa.select(sa.func.my_function()))),
    ):
        assert not reads_only(statement), str(statement)


@pytest.mark.parametrize(
    "sql",
    [
        "select * from t for share",
        "set names utf8mb4",
        "create temp table x (id int)",
        "select get_lock('x', 0)",
        "select pg_try_advisory_lock(1)",
        "pragma foreign_keys = off",
        "use other",
        "declare c cursor for select 1",
        "lock table t",
        "pragma foreign_keys(off)",
        "PRAGMA main.query_only (1)",
        'pragma "foreign_keys"(off)',
        "select 1; set search_path to x",
        "select 1;; pragma foreign_keys(off);",
        "select 1; select get_lock('x', 0)",
        "(select 1); set role x",
        "select set_config('search_path', 'x', false)",
        "select pg_catalog.set_config('search_path', 'x', 1 > 0 or true)",
        "select set_config('search_path', 'x', :local) where true",
        "select * into temp t from u",
        "select * into temporary table t from u",
        'select * into local temp "t" from u',
        "with u as (select 1) select * into temp t from u",
        "create or replace temporary table t (id int)",
        "create local temp table t (id int)",
    ],
)
def test_a_one_shot_has_no_tomorrow(sql: str) -> None:
    """What would be gone, or left behind for somebody else, is refused with the reason."""
    with pytest.raises(StatementRefusedError, match="outside a transaction"):
        check_one_shot(sa.text(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "pragma table_info(t)",
        "pragma main.table_xinfo('t')",
        "pragma index_list(t)",
        "pragma index_info(i)",
        "pragma index_xinfo(i)",
        "pragma foreign_key_list(t)",
        "pragma foreign_key_check(t)",
        "pragma integrity_check(10)",
        "pragma quick_check",
        "pragma foreign_keys",
        "set statement max_statement_time=1 for select 1",
        "show tables",
        "select 1; select 2;",
        "select set_config('a.b', lower('x'), true)",
        "select * into unlogged t from u",
        "insert into temp select * from u",
        "with u as (select 1) insert into temp select * from u",
        "select a into temp from u",
        "create trigger x after insert on t begin update t set a = 1; end",
        "do $$ begin set x = 1; end $$",
    ],
)
def test_what_leaves_nothing_behind_is_no_matter(sql: str) -> None:
    """Looks at settings and limits for one statement are fine as one-shots."""
    check_one_shot(sa.text(sql))


@pytest.mark.parametrize("wrong", [None, 1, b"select 1", ["select 1"], table.c.id])
def test_what_is_no_statement_is_refused(wrong: Any) -> None:
    """Only text and executable constructs are statements."""
    with pytest.raises(UsageError, match="statement: expected"):
        as_executable(wrong)
