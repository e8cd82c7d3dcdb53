"""One statement per call, and what a single statement may be: no answers and no variables of somebody else's."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import StatementRefusedError
from tests.conftest import Backend
from tests.twins.harness import Harness
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK, in_engine_begin, on_engine

_SEVERAL = [
    "select 1; select 2",
    "insert into stock values (7, 7); drop table stock",
    "insert into stock values (8, 8);\ninsert into stock values (9, 9);",
]


async def test_several_statements_are_refused_everywhere(db: Any, backend: Backend) -> None:
    """One error on the three databases and in both worlds, with every verb, unsent."""
    await db.execute(CREATE_STOCK)
    before = db.stats().statement_count
    for sql in _SEVERAL:
        for verb in (db.execute, db.fetch_all, db.fetch_one, db.fetch_value):
            with pytest.raises(StatementRefusedError, match="several statements in one text"):
                await verb(sql)
    async with db.transaction() as tx:
        for sql in _SEVERAL:
            for verb in (tx.execute, tx.fetch_all, db.execute):
                with pytest.raises(StatementRefusedError, match="several statements in one text"):
                    await verb(sql)
            with pytest.raises(StatementRefusedError, match="several statements in one text"):
                await tx.execute_many(f"{sql} where :a = 1", [{"a": 1}, {"a": 2}])
        async with db.session() as session:
            with pytest.raises(StatementRefusedError, match="several statements in one text"):
                await session.execute(sa.text(_SEVERAL[1]))
    assert db.stats().statement_count == before
    assert await db.fetch_value(COUNT_STOCK) == 0


async def test_an_injected_statement_is_not_run(db: Any) -> None:
    """A text that somebody put together from input: what comes after the semicolon runs nowhere."""
    await db.execute(CREATE_STOCK)
    await db.execute(INSERT_STOCK, {"id": 1, "quantity": 1})
    given = "1; drop table stock"
    with pytest.raises(StatementRefusedError):
        await db.fetch_all(f"select * from stock where id = {given}")
    assert await db.fetch_value(COUNT_STOCK) == 1


async def test_one_statement_may_have_semicolons(db: Any, backend: Backend) -> None:
    """A last one, one in a literal, and those of a body."""
    await db.execute(CREATE_STOCK)
    assert await db.fetch_value("select 1; -- done") == 1
    assert await db.fetch_value("select ';'") == ";"
    body = {
        "sqlite": "create trigger more after insert on stock begin"
        " update stock set quantity = case when quantity < 5 then 5 else quantity end; select 1; end;",
        "postgresql": "create function more() returns integer"
        " begin atomic insert into stock values (2, 2); select 5; end;",
        "mariadb": "create procedure more() begin if 1 then insert into stock values (2, 2); end if; end;",
    }
    await db.execute(body[backend.name])
    if backend.name == "sqlite":
        await db.execute(INSERT_STOCK, {"id": 1, "quantity": 1})
        assert await db.fetch_value("select quantity from stock") == 5
    elif backend.name == "mariadb":
        await db.execute(
            "begin not atomic declare n integer default 3; while n < 5 do"
            " insert into stock values (n, n); set n = n + 1; end while; end"
        )
        assert await db.fetch_value(COUNT_STOCK) == 2
    else:
        await db.execute("create rule twice as on insert to stock do also (select 1; select 2)")


async def test_migrations_and_the_engine_go_their_own_way(db: Any, backend: Backend) -> None:
    """What runs on a connection of the engine's own is judged by the server, as Alembic's op.execute needs it."""
    if backend.name != "postgresql":
        pytest.skip("only PostgreSQL runs several statements in one text")
    both = "create table a (id integer); create table b (id integer)"
    await in_engine_begin(db, lambda connection: connection.exec_driver_sql(both))
    assert await db.fetch_value("select count(*) from b") == 0


# --- answers of the connection -------------------------------------------------------------------

_ASKS: dict[str, list[Any]] = {
    "postgresql": ["select lastval()", "select currval('numbered_id_seq')", sa.select(sa.func.lastval())],
    "mariadb": [
        "select last_insert_id()",
        "select LAST_INSERT_ID ()",
        "select row_count()",
        "select found_rows()",
        "select @@identity",
        "select @@last_insert_id",
        "show warnings",
        sa.select(sa.func.last_insert_id()),
        sa.select(sa.literal(1)).where(sa.func.coalesce(sa.func.last_insert_id(), 0) == 1),
    ],
    "sqlite": [
        "select last_insert_rowid()",
        "select changes(), total_changes()",
        sa.select(sa.func.last_insert_rowid()),
    ],
}
_NUMBERED = {
    "postgresql": "create table numbered (id serial primary key, owner integer)",
    "mariadb": "create table numbered (id integer auto_increment primary key, owner integer)",
    "sqlite": "create table numbered (id integer primary key, owner integer)",
}
_LAST = {"postgresql": "select lastval()", "mariadb": "select last_insert_id()", "sqlite": "select last_insert_rowid()"}
numbered = sa.Table(
    "numbered", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("owner", sa.Integer)
)


async def test_a_single_statement_is_told_nobody_elses_answer(make_db: Any, backend: Backend, harness: Harness) -> None:
    """Twenty at once ask for their last id: refused as single statements, right in a transaction and by the result."""
    db = make_db(pool_size=4, max_overflow=0)
    await db.execute(_NUMBERED[backend.name])
    wrong: list[int] = []

    async def one(owner: int) -> None:
        for _ in range(5):
            (key,) = (await db.execute(sa.insert(numbered).values(owner=owner))).inserted_primary_key
            if await db.fetch_value("select owner from numbered where id = :id", {"id": key}) != owner:
                wrong.append(owner)
            with pytest.raises(StatementRefusedError, match="anybody's"):
                await db.fetch_value(_LAST[backend.name])
            async with db.transaction() as tx:
                await tx.execute("insert into numbered (owner) values (:owner)", {"owner": owner})
                last = await tx.fetch_value(_LAST[backend.name])
                if await tx.fetch_value("select owner from numbered where id = :id", {"id": last}) != owner:
                    wrong.append(owner)

    await harness.together(*(lambda owner=owner: one(owner) for owner in range(20)))
    assert wrong == []
    for ask in _ASKS[backend.name]:
        with pytest.raises(StatementRefusedError, match="outside a transaction"):
            await db.fetch_all(ask)
    if backend.name == "mariadb":
        with pytest.raises(StatementRefusedError, match="outside a transaction"):
            await db.execute(sa.insert(numbered).values(owner=sa.func.last_insert_id()))
    assert await db.fetch_value("select count(*) from numbered") == 200


async def test_control_as_two_statements_the_answer_is_somebody_elses(make_db: Any, backend: Backend) -> None:
    """Control: what is refused is really wrong: another user of the connection has inserted in between."""
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute(_NUMBERED[backend.name])
    mine = (await db.execute(sa.insert(numbered).values(owner=1))).inserted_primary_key
    await db.execute(sa.insert(numbered).values(owner=2))
    last = await on_engine(db, lambda c: c.exec_driver_sql(_LAST[backend.name]).scalar())
    assert (last,) != mine


async def test_a_user_variable_reaches_nobody_else(make_db: Any, backend: Backend) -> None:
    """Refused in a single statement; set in a transaction, it goes with the connection."""
    if backend.name != "mariadb":
        pytest.skip("MariaDB has user variables")
    db = make_db(pool_size=1, max_overflow=0)
    for refused in (
        "select @x := 1",
        "set @x = 1",
        "select 1 into @x",
        "select @x",
        "begin not atomic set @x = 1; end",
    ):
        with pytest.raises(StatementRefusedError, match="outside a transaction"):
            await db.fetch_all(refused)
    for statement in ("select @x := 4711", "set @x = 4711", "select 4711 into @x"):
        async with db.transaction() as tx:
            await tx.fetch_all(statement)
            assert int(await tx.fetch_value("select @x")) == 4711
        async with db.transaction() as tx:
            assert await tx.fetch_value("select @x") is None


# --- what is no matter ---------------------------------------------------------------------------


async def test_the_queue_claim_in_one_statement_is_a_single_statement(db: Any, backend: Backend) -> None:
    """Its locks are needed no longer than it runs."""
    await db.execute(CREATE_STOCK)
    await db.execute_many(INSERT_STOCK, [{"id": 1, "quantity": 0}, {"id": 2, "quantity": 0}])
    if backend.name != "postgresql":
        pytest.skip("only PostgreSQL has it in one statement")
    claimed = await db.fetch_all(
        "with next as (select id from stock where quantity = 0 order by id limit 1 for update skip locked)"
        " update stock set quantity = 1 from next where stock.id = next.id returning stock.id"
    )
    assert claimed == [(1,)]


_LITERALS = {
    "mariadb": [(r"select 'Don\'t stop; begin'", "Don't stop; begin"), (r'select "a\"; commit"', 'a"; commit')],
    "postgresql": [
        (r"select E'Don\'t stop; begin'", "Don't stop; begin"),
        (r"select U&'\0041; begin'", "A; begin"),
        ("select $tag$it's; $$ begin$tag$", "it's; $$ begin"),
        ("select /* /* ; commit */ ; commit */ 'x'", "x"),
    ],
    "sqlite": [(r"select '\' || '; commit'", "\\; commit"), ('select "a;commit" from (select 1 as "a;commit")', 1)],
}


async def test_literals_are_read_as_the_database_reads_them(db: Any, backend: Backend) -> None:
    """Escapes, dollar quotes and nested comments are no statements."""
    for sql, value in _LITERALS[backend.name]:
        assert await db.fetch_value(sql) == value
        async with db.transaction() as tx:
            assert await tx.fetch_value(sql) == value


async def test_pragmas_that_last_in_the_file_are_single_statements(db: Any, backend: Backend) -> None:
    """user_version and wal_checkpoint change the file, not the connection."""
    if backend.name != "sqlite":
        pytest.skip("SQLite's way")
    await db.execute("pragma user_version = 5")
    assert await db.fetch_value("pragma user_version") == 5
    assert len(await db.fetch_all("pragma wal_checkpoint(truncate)")) == 1
    with pytest.raises(StatementRefusedError):
        await db.execute("pragma foreign_keys = off")


async def test_what_ends_with_the_transaction_costs_no_connection(make_db: Any, backend: Backend) -> None:
    """Transaction locks, LOCK TABLE and temporary tables ON COMMIT DROP: the pool keeps its connection."""
    if backend.name != "postgresql":
        pytest.skip("PostgreSQL's way")
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute(CREATE_STOCK)
    ending = [
        "select pg_advisory_xact_lock(1)",
        "lock table stock in share mode",
        "create temp table passing (id integer) on commit drop",
        "set local work_mem = '1MB'",
        "declare c cursor for select 1",
        "select * from stock for update",
    ]
    session = await db.fetch_value("select pg_backend_pid()")
    for statement in ending:
        async with db.transaction() as tx:
            await tx.execute(statement)
        assert await db.fetch_value("select pg_backend_pid()") == session, statement
    for statement in ("select pg_advisory_lock(1)", "create temp table lasting (id integer)", "set work_mem = '1MB'"):
        async with db.transaction() as tx:
            await tx.execute(statement)
        assert await db.fetch_value("select pg_backend_pid()") != session, statement
        session = await db.fetch_value("select pg_backend_pid()")
