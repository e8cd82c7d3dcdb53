"""What a statement is, before it is sent: in doubt it is a write, and it never ends a transaction unseen."""

from __future__ import annotations

import re
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from prefiq_db import lexis
from prefiq_db.dialects.mariadb import PrefiqMariadb
from prefiq_db.dialects.postgresql import PrefiqPostgresql
from prefiq_db.dialects.rules import RULES
from prefiq_db.dialects.sqlite import PrefiqSqlite
from prefiq_db.errors import StatementRefusedError, UsageError
from prefiq_db.execution.refused_statements import refuse_one_shot
from prefiq_db.execution.sql_tokens import scan
from prefiq_db.execution.statement_facts import LONGEST_COMPILED, as_executable, facts_of, facts_of_text, reading_facts

ALL = ("postgresql", "mariadb", "sqlite")
DIALECTS = {"postgresql": PrefiqPostgresql(), "mariadb": PrefiqMariadb(), "sqlite": PrefiqSqlite()}
table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(10)))


def on(names: str, *texts: str) -> list[Any]:
    """Return a case per database (``p``, ``m``, ``s``) and text."""
    chosen = [name for name in ALL if name[0] in names]
    return [pytest.param(name, text, id=f"{name}: {text[:60]}") for name in chosen for text in texts]


# --- reads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *on(
            "pms",
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
            "select cast(id as varchar(10)) from t",
            "select 1 as begin_with from t where a = :update",
        ),
        *on(
            "p", r"select E'it\'s; delete'", "select $x$ it's; delete $x$", "select 1::numeric(10, 2)", "select 1--1\n"
        ),
        *on("m", "select 1 # delete\n", "select 1 -- delete\n"),
        *on("s", r"select 'a\'", "select [delete] from t", "select `update` from t"),
    ],
)
def test_plain_reads_are_seen_as_reads(dialect: str, sql: str) -> None:
    """What provably changes nothing may be sent again."""
    assert facts_of_text(sql, dialect).reads_only


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *on(
            "pms",
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
            'select mine."lower"(1)',
            "select app.move_money(1)",
            "select next value for s",
            "select previous value for s",
            "select sleep(1), get_lock('a', 1)",
            "select my_function(id) from t",
            "select id into other from t",
            "select * from t for update",
            "select * from t for no key update",
            "select * from t lock in share mode",
            "select 1 /* */ ; delete from t",
            "explain analyze delete from t",
            "call p()",
            "values (1)",
            "pragma journal_mode = wal",
        ),
        *on("p", "select 'it\\'s', nextval('s') -- '", "select iif(a, b, c) from t", "select total(id) from t"),
        *on("p", "select /* /* */ nextval('s') */ nextval('s')"),
        *on("m", "select 2*/* ' */3, mine(1) -- '"),
        *on("m", "select 'a\\'b'", "select 1 /*! , nextval(s) */", "select 1--1, nextval(s)", "select s.nextval"),
        # Someone's own function, where the name is none of this server's; and a blank makes it one, too.
        *on("m", "select date_trunc('day', a)", "select string_agg(a)", "select total(a)", "select count (a) from t"),
        *on("s", "select date_trunc('day', a)", "select mine(1)"),
    ],
)
def test_what_may_write_is_never_taken_for_a_read(dialect: str, sql: str) -> None:
    """Data-changing words, locks, unknown functions and what servers read differently count as writes."""
    assert not facts_of_text(sql, dialect).reads_only


def test_functions_somebody_may_have_taken_are_named() -> None:
    """PostgreSQL prefers a function of somebody's own that fits better; grammar can't be taken, nor MariaDB's."""
    sql = "select lower(name), count(*), coalesce(name, 'x'), cast(id as int) from t where id > extract(day from now())"
    assert facts_of_text(sql, "postgresql").takable == {"lower", "count", "now"}
    assert facts_of_text(sql, "mariadb").takable == facts_of_text(sql, "sqlite").takable == frozenset()
    assert facts_of_text("select coalesce(a, 1) from t", "postgresql").takable == frozenset()


@pytest.mark.parametrize("dialect", ALL)
def test_core_constructs_are_judged_by_what_is_sent(dialect: str) -> None:
    """Reads with known functions; data changes hidden in a CTE, functions of a schema, text in a select."""
    makes = DIALECTS[dialect]
    changes = sa.delete(table).returning(table.c.id).cte("gone")
    for statement in (
        sa.select(table.c.id, sa.func.count()).where(table.c.name == "x").group_by(table.c.id),
        sa.union_all(sa.select(table.c.id), sa.select(table.c.id)),
        sa.select(sa.select(table.c.id).subquery()),
        sa.select(table).where(table.c.id.in_([1, 2])),
        sa.select(sa.cast(table.c.id, sa.String(20)), sa.func.lower(table.c.name)),
    ):
        assert reading_facts(statement, makes).reads_only, str(statement)
    for statement in (
        sa.insert(table),
        sa.select(changes),
        sa.select(table).with_for_update(),
        sa.select(table).suffix_with("for update"),
        sa.select(sa.func.nextval("s")),
        sa.select(sa.func.app.log(1)),
        sa.select(sa.func.app.move_money(1)),
        sa.select(sa.text("nextval('s')")),
        sa.select(sa.literal_column("nextval('s')")),
        sa.union_all(sa.select(table.c.id), sa.select(table.c.id).with_for_update()),
        sa.select(table).where(table.c.id.in_(sa.select(sa.func.my_function()))),
        sa.text("delete from t").columns(table.c.id),
    ):
        if dialect == "sqlite" and "FOR UPDATE" in str(statement):
            continue  # it isn't sent there
        assert not reading_facts(statement, makes).reads_only, str(statement)


_QUOTES = ["'{}'", '"{}"', "/* {} */", "-- {}\n"]
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


@given(before=_filler, word=_word, after=_filler, dialect=st.sampled_from(ALL))
def test_a_data_changing_word_outside_quotes_is_never_a_read(
    before: list[str], word: str, after: list[str], dialect: str
) -> None:
    """Whatever stands around it, quoted or not."""
    assert not facts_of_text(" ".join(["select", *before, word, *after]), dialect).reads_only


# --- reading a text ---------------------------------------------------------------------------------------------------


@given(st.text(alphabet="abiE '\"`;$-/*#\\\n()[]:@!", max_size=40), st.sampled_from(ALL))
def test_any_text_is_read_without_an_error(text: str, dialect: str) -> None:
    """Half a quote, half a comment or nothing at all: there is an answer, and the pieces stand in order."""
    assert facts_of_text("select " + text, dialect) == facts_of_text("select " + text, dialect)
    place = 0
    for start, end in scan(text, RULES[dialect].lexis).spans:
        assert place <= start < end <= len(text)
        place = end


class _Counting:
    """A compiled pattern that counts the characters it took."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern = pattern
        self.calls = 0

    def match(self, text: str, place: int) -> Any:
        self.calls += 1
        return self.pattern.match(text, place)

    search = match


_NEVER_CLOSED = ["/*", "/* /*", "$a$", "'", '"', "`", "[", "E'\\'", "'\\'", "'' '", "--", "#x\n", "/*!", "E'a'\n", "*/"]


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("piece", _NEVER_CLOSED)
def test_reading_takes_steps_in_proportion_to_the_length(
    monkeypatch: pytest.MonkeyPatch, dialect: str, piece: str
) -> None:
    """Four times the text are four times the steps, whatever is left open: nothing is looked at twice."""

    def steps(count: int) -> int:
        counting, rules = _Counting(RULES[dialect].lexis.token), RULES[dialect].lexis
        edges = _Counting(lexis._COMMENT_EDGE)
        edges.search = edges.pattern.search  # type: ignore[method-assign]
        given = lexis.Lexis(counting, rules.nested_comments, rules.escapes_by_mode)  # type: ignore[arg-type]
        scan("select " + piece * count, given)
        return counting.calls

    once, fourfold = steps(500), steps(2000)
    assert fourfold <= 4 * once + 10


@pytest.mark.parametrize("dialect", ALL)
def test_no_pattern_gives_back_what_it_took(dialect: str) -> None:
    """Each repetition is possessive: a pattern that fails late has nothing to try again, so it fails in one go."""
    pattern = RULES[dialect].lexis.token.pattern
    assert re.findall(r"(?:\)|\]|\s|\d|\w)[*+](?![+])", pattern) == []


def test_long_texts_are_judged_and_not_compiled_once() -> None:
    """A dump of megabytes is judged as the rest is; SQLAlchemy, which counts in number, is not to remember it."""
    sql = "select '" + "x" * LONGEST_COMPILED + "'"
    assert facts_of_text(sql, "postgresql").reads_only
    assert facts_of_text(sql + "; commit", "postgresql").control
    assert as_executable(sql)._generate_cache_key() is None  # type: ignore[attr-defined]
    assert as_executable("select 1") is as_executable("select 1")


# --- what ends a transaction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *on(
            "pms",
            "begin",
            "BEGIN IMMEDIATE",
            "commit and chain",
            "/**/ rollback",
            "-- x\nsavepoint a",
            "start transaction read only",
            "end",
            "abort",
            "release savepoint a",
            "xa start 'x'",
            "prepare transaction 'x'",
            "set autocommit = 0",
            "set @@session.autocommit=1",
            "update t set a = 1; commit",
            "select 1; -- x\n begin",
            "select 1; prepare transaction 'x'",
            "select 1; create table t (id int); commit",
            "create table t (id int); commit",
            "select 1; set autocommit = 1",
            "select 'it''s'; commit",
        ),
        *on(
            "p",
            r"select E'\'' ; commit; --'",
            "select E'a'\n'\\''; commit; --'",
            "do $$ begin perform 1; end $$; commit",
            "select 1 /* /* */ */; commit",
            "select U&'a\\'; commit",
            "create function f() returns int language sql as $$ select 1 $$; commit",
            "create function f(begin int) returns int language sql as $$ select 1 $$; commit",
            "create function f() returns int begin atomic select case when 1=1 then 1 end; end; commit",
            "select t.case from t; commit",
            "select 1 as case; commit",
            "select substring(a from case when b then 1 end for 2) from t; commit",
        ),
        *on(
            "m",
            "# x\ncommit",
            "#x\ncommit",
            "#x\n#y\n commit",
            "-- x\ncommit",
            "/*!50000 commit */",
            "/*M! commit */",
            "/*!999999 ' */ ; commit -- '",
            "set statement max_statement_time=1 for commit",
            "begin not atomic commit; end",
            "begin not atomic select 1; commit; end",
            "begin not atomic start transaction; end",
            "begin not atomic set autocommit = 1; end",
            "begin not atomic declare exit handler for sqlexception rollback; select 1; end",
            "if 1 then commit; end if",
            "if 1 then select 1; else commit; end if",
            "case 1 when 1 then commit; end case",
            "while 0 do commit; end while",
            "repeat commit; until 1 end repeat",
            "execute immediate 'commit'",
            "execute immediate 'select 1; commit'",
            "EXECUTE IMMEDIATE 'comm\\it'",
            "prepare s from 'rollback'",
            'prepare s from "start transaction"',
        ),
    ],
)
def test_what_begins_or_ends_a_transaction_is_seen(dialect: str, sql: str) -> None:
    """Behind comments, literals, semicolons, in blocks and in texts that become statements."""
    assert facts_of_text(sql, dialect).control


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *on(
            "pms",
            "select 'a; commit'",
            "select begin from commit",
            "set local statement_timeout = 1",
            "prepare q as select 1",
            "select 1; select 2",
            "select 1 /* ; commit */",
            "select :begin, :commit",
        ),
        *on(
            "p",
            r"select 'Don\'",
            r"select E'Don\'t stop; begin'",
            "select U&'\\0041; begin'",
            "select $$; begin$$, $a$ $b$ ; begin $a$",
            "select 1 /* /* ; commit */ ; commit */",
            "do $$ begin perform 1; commit; end $$",
            "create function f() returns int begin atomic select 1; select 2; end",
            "select a$b$ from t where c$b$ = 1",
        ),
        *on(
            "m",
            r"select 'Don\'t stop; begin'",
            r'select "Don\"t stop; begin"',
            "select 1 # ; commit",
            "select 1 -- ; commit",
            "begin not atomic select t.commit from t; end",
            "begin not atomic select 1; end",
            "create procedure p() begin start transaction; commit; end",
            "execute immediate 'select 1'",
            "start slave",
        ),
        *on(
            "s", "create trigger x after insert on t begin update t set a = 1; end", r"select '\'", "select [; commit]"
        ),
    ],
)
def test_what_ends_none_is_let_through(dialect: str, sql: str) -> None:
    """Words in literals, names, comments and bodies are no statements."""
    assert not facts_of_text(sql, dialect).control


@pytest.mark.parametrize(
    "sql",
    [
        "create table t (id int)",
        "ALTER TABLE t ADD x int",
        "drop index i",
        "truncate t",
        "grant select on t to u",
        "rename table a to b",
        "optimize table t",
        "check table t",
        "analyze local table t",
        "create or replace table t (id int)",
        "create unique index i on t (id)",
        "create procedure p() begin commit; end",
        "set statement max_statement_time=1 for drop table t",
        "set password = 'x'",
        "set default role none",
        "cache index t in hot",
        "load index into cache t",
        "start slave",
        "stop replica",
        "flush tables",
        "reset master",
        "lock tables t write",
        "begin not atomic drop table t; end",
        "begin not atomic if 1 then truncate t; end if; end",
        "execute immediate 'drop table t'",
        "select 1; drop table t",
    ],
)
def test_what_commits_by_itself_is_seen(sql: str) -> None:
    """DDL and its kin commit on MariaDB, and nowhere else."""
    assert facts_of_text(sql, "mariadb").commits
    assert not facts_of_text(sql, "postgresql").commits
    assert not facts_of_text(sql, "sqlite").commits


@pytest.mark.parametrize(
    "sql",
    [
        "create temporary table t (id int)",
        "drop temporary table t",
        "begin not atomic create temporary table t (id int); end",
        "begin not atomic select truncate(1.5, 0); end",
        "insert into t values ('create table')",
        "load data infile 'x' into table t",
        "analyze select 1",
        "set sql_mode = default",
        "set names utf8mb4",
        "select 1",
    ],
)
def test_what_does_not_commit_is_let_through(sql: str) -> None:
    """Temporary tables don't, and ANALYZE of a statement doesn't."""
    assert not facts_of_text(sql, "mariadb").commits


def test_statements_made_at_the_server_are_hidden() -> None:
    """Only a literal can be read; what is put together at the server can't."""
    for sql in (
        "execute immediate concat('com', 'mit')",
        "execute immediate 'com' 'mit'",
        "execute immediate @x",
        "execute s",
        "prepare s from @x",
        "begin not atomic execute immediate @x; end",
    ):
        assert facts_of_text(sql, "mariadb").hidden, sql
    assert not facts_of_text("execute immediate 'select 1'", "mariadb").hidden
    assert not facts_of_text("create procedure p() begin execute immediate @x; end", "mariadb").hidden
    assert not facts_of_text("execute s", "postgresql").hidden  # it can prepare no COMMIT


# --- several ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *on("pms", "select 1; select 2", "select 1;; select 2;", "insert into t values (';'); drop table t"),
        *on(
            "p",
            "do $$ begin end $$; select 1",
            "create rule r as on insert to t do also (select 1; select 2); select 1",
        ),
        *on("m", "begin not atomic select 1; end; select 2", "/*! select 1; */ select 2"),
        *on("s", "create trigger x after insert on t begin select 1; end; select 2"),
    ],
)
def test_several_statements_are_seen(dialect: str, sql: str) -> None:
    """One after the other in one text."""
    assert facts_of_text(sql, dialect).several


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *on(
            "pms",
            "select 1;",
            "select 1; -- done",
            "; select 1 ;;",
            "select ';' /* ; */",
            "select case when 1 then 2 end;",
        ),
        *on(
            "p",
            "create rule r as on insert to t do also (insert into a values (1); insert into b values (2))",
            "create function f() returns int begin atomic insert into t values (1); select 1; end;",
            "create procedure p() language sql begin atomic insert into t values (1); insert into t values (2); end",
            "do $$ begin perform 1; end $$;",
        ),
        *on(
            "m",
            "begin not atomic if a then select 1; end if; while 0 do select 1; end while; end;",
            "if 1 then select 1; elseif 2 then select 2; else select 3; end if;",
            "create procedure p() if 1 then select 1; else select 2; end if",
            "create trigger x before insert on t for each row begin case 1 when 1 then set @a = 1; end case; end",
            "create or replace definer = 'a'@'b' function if not exists f() returns int begin return if(1, 2, 3); end",
            "for i in 1..3 do select i; end for",
        ),
        *on(
            "s",
            "create temp trigger if not exists x after update of a on t begin update t"
            " set a = case b when 1 then 2 end; select 1; end;",
        ),
    ],
)
def test_one_statement_is_one(dialect: str, sql: str) -> None:
    """A last semicolon, bodies, blocks and CASE are nothing to refuse."""
    assert not facts_of_text(sql, dialect).several


# --- what has no tomorrow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *on(
            "pms",
            "select * from t for update",
            "with a as (select * from t for update) select * from a",
            "select * from t for share",
            "set names utf8mb4",
            "create temp table x (id int)",
            "select get_lock('x', 0)",
            "select pg_try_advisory_lock(1)",
            "pragma foreign_keys = off",
            "use other",
            "lock table t",
            "pragma foreign_keys(off)",
            "PRAGMA main.query_only (1)",
            'pragma "foreign_keys"(off)',
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
        ),
        *on("p", "declare c cursor for select 1", "prepare q as select 1", "execute q", "listen a", "reset all"),
        *on(
            "p",
            "discard all",
            "select lastval()",
            "insert into t values (currval('s'))",
            "select pg_advisory_xact_lock(1)",
        ),
        *on(
            "s",
            "attach 'x' as y",
            "select last_insert_rowid()",
            "select changes()",
            "insert into t values (total_changes())",
        ),
        *on(
            "m",
            "select last_insert_id()",
            "insert into t values (LAST_INSERT_ID())",
            "select row_count(), found_rows()",
            "select @@identity",
            "select @@session.last_insert_id",
            "select lastval(s)",
            "show warnings",
            "show count(*) errors",
            "get diagnostics @a = number",
            "select @x := 1",
            "select @x",
            "select `a` into @x from t",
            "call p(@x)",
            "prepare s from 'select 1'",
            "handler t open",
        ),
    ],
)
def test_a_one_shot_has_no_tomorrow(dialect: str, sql: str) -> None:
    """What would be gone, or left behind for somebody else, is refused with the reason."""
    with pytest.raises(StatementRefusedError, match=r"outside a transaction|several statements"):
        refuse_one_shot(facts_of_text(sql, dialect))


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *on(
            "pms",
            "select set_config('a.b', lower('x'), true)",
            "select * into unlogged t from u",
            "insert into temp select * from u",
            "with u as (select 1) insert into temp select * from u",
            "select a into temp from u",
            "with a as (select id from t for update skip locked) update t set x = 1 from a where t.id = a.id",
            "update t set x = 1 where id in (select id from t for update)",
            "select last_insert_id, lastval, changes from t",
            "insert into changes (id) values (1)",
        ),
        *on("p", "do $$ begin set x = 1; end $$", "insert into t values (nextval('s'), currval('s'))", "select @ -1"),
        *on(
            "s",
            "pragma table_info(t)",
            "pragma main.table_xinfo('t')",
            "pragma index_list(t)",
            "pragma foreign_key_check(t)",
            "pragma integrity_check(10)",
            "pragma quick_check",
            "pragma foreign_keys",
            "pragma user_version = 5",
            "pragma wal_checkpoint(truncate)",
            "pragma application_id = 1",
            "create trigger x after insert on t begin insert into log values (last_insert_rowid(), changes()); end",
            "select * from changes",
            "select @x",
        ),
        *on(
            "m",
            "set statement max_statement_time=1 for select 1",
            "show tables",
            "select @@version",
            "set password = 'x'",
            "grant select on t to 'a'@'localhost'",
            "create definer = a@b procedure p() select last_insert_id(), @x",
            "insert into t values (1) on duplicate key update id = last_insert_id(id)",
            "begin not atomic insert into t values (1); select last_insert_id(); end",
            "execute immediate 'select 1'",
        ),
    ],
)
def test_what_leaves_nothing_behind_is_no_matter(dialect: str, sql: str) -> None:
    """Looks at settings, limits for one statement and what lasts in the file are fine as one-shots."""
    refuse_one_shot(facts_of_text(sql, dialect))


@pytest.mark.parametrize(
    ("dialect", "sql", "lingers"),
    [
        ("postgresql", "select pg_advisory_xact_lock(1)", False),
        ("postgresql", "select pg_advisory_lock(1)", True),
        ("postgresql", "lock table t in exclusive mode", False),
        ("postgresql", "create temp table x (id int) on commit drop", False),
        ("postgresql", "create temp table x (id int)", True),
        ("postgresql", "set local work_mem = '1MB'", False),
        ("postgresql", "set constraints all deferred", False),
        ("postgresql", "set work_mem = '1MB'", True),
        ("postgresql", "declare c cursor for select 1", False),
        ("postgresql", "declare c cursor with hold for select 1", True),
        ("postgresql", "select * from t for update", False),
        ("postgresql", "select lastval()", False),
        ("postgresql", "select 1", False),
        ("mariadb", "set local sql_mode = ''", True),
        ("mariadb", "set @x = 1", True),
        ("mariadb", "select @x := 1", True),
        ("mariadb", "select a into @x from t", True),
        ("mariadb", "begin not atomic set @x = 1; end", True),
        ("mariadb", "prepare s from 'select 1'", True),
        ("mariadb", "select last_insert_id()", False),
        ("mariadb", "create temporary table t (id int)", True),
        ("sqlite", "pragma user_version = 5", False),
        ("sqlite", "pragma cache_size = 5", True),
        ("sqlite", "create temp table x (id int)", True),
    ],
)
def test_what_outlives_a_transaction_is_known(dialect: str, sql: str, lingers: bool) -> None:
    """What COMMIT ends costs no new connection; what stays on the connection costs it."""
    assert facts_of_text(sql, dialect).lingers is lingers


# --- statements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "verb"),
    [
        ("insert into t values (1)", "insert"),
        ("with a as (select 1) update t set x = 1 returning id", "update"),
        ("with a as (delete from t returning id) select * from a", "select"),
        ("(select 1)", "select"),
        ("explain delete from t", "explain"),
        ("", ""),
    ],
)
def test_the_main_word_is_known(sql: str, verb: str) -> None:
    """It decides whether there is a count of rows."""
    assert facts_of_text(sql, "postgresql").verb == verb


def test_facts_of_constructs_without_compiling() -> None:
    """Row locks are known at once; the rest is judged when it is sent."""
    assert facts_of(sa.select(table).with_for_update(), "postgresql").no_tomorrow
    assert facts_of(sa.text("commit").columns(table.c.id), "postgresql").control
    assert not facts_of(sa.select(table), "postgresql").no_tomorrow
    created = str(CreateTable(table).compile(dialect=mysql.dialect()))
    assert facts_of_text(created, "mariadb").commits == "create"


@pytest.mark.parametrize("wrong", [None, 1, b"select 1", ["select 1"], table.c.id])
def test_what_is_no_statement_is_refused(wrong: Any) -> None:
    """Only text and executable constructs are statements."""
    with pytest.raises(UsageError, match="statement: expected"):
        as_executable(wrong)


@pytest.mark.parametrize(
    ("sql", "refused"),
    [
        ("copy t from stdin", True),
        ("/* all */ COPY t (id, name) FROM STDIN WITH (FORMAT csv);", True),
        ("copy (select name from t) to stdout", True),
        ("copy t from '/file'", False),
        ("copy t to program 'gzip'", False),
        ("copy (select name from stdin) to '/file'", False),
        ("select 'copy t from stdin' from t", False),
        ("select t.copy from stdin as t", False),
    ],
)
def test_copy_with_its_rows_on_the_connection_is_no_statement(sql: str, refused: bool) -> None:
    facts = facts_of_text(sql, "postgresql")
    assert (facts.carries_rows, facts.stands_alone) == (refused, not refused)


@pytest.mark.parametrize("name", ["tx_read_only", "TRANSACTION_READ_ONLY", "max_statement_time=1, tx_read_only"])
def test_a_statement_that_lifts_the_sessions_read_only_is_no_read(name: str) -> None:
    """MariaDB takes it in a read-only session, and a function in it then writes."""
    facts = facts_of_text(f"set statement {name} = 0 for select spoil()", "mariadb")
    assert not facts.reads_by_words
    assert not facts.reads_only
    with pytest.raises(StatementRefusedError, match="session may only read"):
        refuse_one_shot(facts)
    assert facts_of_text("set statement max_statement_time=1 for select 1", "mariadb").reads_only, "the control"
