"""Stored procedures and dynamic SQL on MariaDB: what they answer, what they leave open, and what they commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine

from prefiq_db.dialects import mariadb as mariadb_dialect
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.mariadb import Kind, kind_of
from prefiq_db.errors import DatabaseError, StatementRefusedError, TransactionEndedError, UniqueViolationError
from tests.twins.support import on_sync_engine

pytestmark = pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)

_PROCEDURES = {
    "two_answers": "begin select 1 as a; select 2 as b union all select 3; end",
    "fails_after_an_answer": "begin select 1; insert into item values (1); insert into item values (1); end",
    "begins": "begin start transaction; insert into item values (2); end",
    "begins_and_fails": "begin start transaction; insert into item values (3); insert into item values (0); end",
    "switches_off": "begin set autocommit = 0; insert into item values (4); end",
    "commits": "begin insert into item values (5); commit; end",
    "commits_and_begins": "begin insert into item values (6); commit; start transaction; end",
    "commits_and_fails": "begin insert into item values (7); commit; insert into item values (0); end",
    "defines": "begin insert into item values (8); create or replace table probe (id integer); end",
    "does_both": "begin insert into item values (9); insert into item values (10); end",
}


@pytest.fixture
def make_shop(make_db: Callable[..., Any]) -> Callable[[], Any]:
    async def make(**fields: Any) -> Any:
        db = make_db(pool_size=1, max_overflow=0, **fields)
        await db.execute("create table item (id integer primary key)")
        await db.execute("insert into item values (0)")
        for name, body in _PROCEDURES.items():
            await db.execute(f"create procedure {name}() {body}")
        return db

    return make


async def _ids(db: Any) -> list[int]:
    return [row.id for row in await db.fetch_all("select id from item where id > 0 order by id")]


async def test_an_error_after_the_first_answer_is_raised(make_shop: Any) -> None:
    """All results of a CALL are read, in a one-shot, in a transaction and in a session alike."""
    db = await make_shop()
    with pytest.raises(UniqueViolationError):
        await db.fetch_all("call fails_after_an_answer()")
    await db.execute("delete from item where id = 1")
    with pytest.raises(UniqueViolationError):
        async with db.transaction() as tx:
            await tx.fetch_all("call fails_after_an_answer()")
    with pytest.raises(Exception, match="unique"):
        await on_sync_engine(db, _call_on_a_connection)
    assert await _ids(db) == []


def _call_on_a_connection(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("call fails_after_an_answer()")).all()


async def test_the_first_answer_is_the_answer(make_shop: Any) -> None:
    """What follows it is read, is there for who asks, and leaves nothing behind for the next statement."""
    db = await make_shop()
    assert [tuple(row) for row in await db.fetch_all("call two_answers()")] == [(1,)]
    assert await db.fetch_value("select 7") == 7
    result = await db.execute("call two_answers()")
    assert [row.a for row in result.rows] == [1]
    assert [[row.b for row in rows] for rows in result.other_rows] == [[2, 3]]
    async with db.transaction() as tx:
        assert await tx.fetch_value("call two_answers()") == 1
        assert await tx.fetch_value("select 8") == 8


@pytest.mark.parametrize("name", ["begins", "switches_off", "commits_and_begins"])
@pytest.mark.parametrize("verb", ["execute", "fetch_all", "fetch_one"])
async def test_a_call_that_leaves_something_open_is_not_acknowledged(make_shop: Any, name: str, verb: str) -> None:
    """What it left open is undone, and the next user's write stays."""
    db = await make_shop()
    with pytest.raises(StatementRefusedError, match="did not end it"):
        await getattr(db, verb)(f"call {name}()")
    await db.execute("insert into item values (100)")
    assert await _ids(db) in ([100], [6, 100])
    assert dict(db.stats().pool.lost) == {"session changed": 1}


async def test_a_call_that_begins_and_fails_leaves_nothing_open(make_shop: Any) -> None:
    """An error says nothing of the transaction, so its connection is not used again."""
    db = await make_shop()
    with pytest.raises(UniqueViolationError):
        await db.execute("call begins_and_fails()")
    await db.execute("insert into item values (100)")
    assert await _ids(db) == [100]


_ENDING = [
    "call commits()",
    "call commits_and_begins()",
    "call commits_and_fails()",
    "call defines()",
    "execute immediate 'commit'",
    "execute immediate concat('com', 'mit')",
    "begin not atomic call commits(); end",
    "set statement max_statement_time = 5 for call commits()",
    "/*! call commits() */",
]


@pytest.mark.parametrize("statement", _ENDING)
async def test_a_commit_that_hides_ends_the_transaction_for_everybody_to_see(make_shop: Any, statement: str) -> None:
    """Nobody is told "not committed", no on_rollback runs, and run_in_transaction does not repeat it."""
    db = await make_shop()
    bodies: list[str] = []
    undone: list[int] = []

    async def body(tx: Any) -> None:
        bodies.append("run")
        tx.on_rollback(lambda: undone.append(1))
        await tx.execute("insert into item values (50)")
        try:
            await tx.execute(statement)
        except StatementRefusedError:  # found in its text already: nothing has happened
            return
        finally:
            outcomes.append(tx)

    outcomes: list[Any] = []
    try:
        await db.run_in_transaction(body)
    except TransactionEndedError:
        assert str(outcomes[0].outcome) == "unknown"
    else:
        assert statement.startswith(("execute", "begin"))
    assert bodies == ["run"]
    assert undone == []
    assert 50 in await _ids(db)


@pytest.mark.parametrize("statement", ["call commits()", "call commits_and_begins()", "call commits_and_fails()"])
async def test_control_without_the_guard_a_commit_hides(
    make_shop: Any, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our own flag alone the block says that it was rolled back, and the row is there."""
    db = await make_shop()
    monkeypatch.setattr(mariadb_dialect, "kind_of", lambda statement: Kind.PLAIN)
    monkeypatch.setattr(PrefiqDialect, "_note_ending", lambda self, state, proxied: None)
    monkeypatch.setattr(PrefiqDialect, "was_ended", lambda self, connection: False)
    tx = db.transaction()
    with pytest.raises((LookupError, DatabaseError)):
        async with tx:
            await tx.execute("insert into item values (50)")
            await tx.execute(statement)
            raise LookupError
    assert str(tx.outcome) == "not committed"
    assert 50 in await _ids(db)


async def test_a_call_in_a_transaction_is_all_or_nothing(make_shop: Any) -> None:
    """Whoever catches its error and goes on has nothing of it, as on the other databases."""
    db = await make_shop()
    async with db.transaction() as tx:
        await tx.execute("insert into item values (10)")
        with pytest.raises(UniqueViolationError):
            await tx.execute("call does_both()")
        await tx.execute("insert into item values (11)")
    assert await _ids(db) == [10, 11]


async def test_an_engines_connection_goes_on_after_a_commit_that_hides(make_shop: Any) -> None:
    """As on a driver that is not in autocommit: what came before is committed, what comes after is a new one."""
    db = await make_shop()

    def work(engine: Engine) -> None:
        with engine.connect() as connection:
            for statement in ("insert into item values (50)", "call commits()", "insert into item values (51)"):
                connection.execute(text(statement))
            connection.rollback()
            connection.execute(text("insert into item values (52)"))
            connection.execute(text("create table other (id integer)"))
            connection.execute(text("insert into item values (53)"))

    await on_sync_engine(db, work)
    assert await _ids(db) == [5, 50, 52]


async def test_a_streamed_answer_is_whole(make_shop: Any) -> None:
    """Nothing of ours is sent between the rows of a server-side cursor."""
    db = await make_shop()
    await db.execute("insert into item values (1), (2)")

    def work(engine: Engine) -> list[list[int]]:
        with engine.begin() as connection:
            streaming = connection.execution_options(stream_results=True)
            return [
                [row[0] for row in streaming.execute(text(statement))]
                for statement in (
                    "call two_answers()",
                    "set statement max_statement_time = 5 for select id from item order by id",
                    "select id from item order by id",
                )
            ]

    assert await on_sync_engine(db, work) == [[1], [0, 1, 2], [0, 1, 2]]


async def test_after_a_definition_the_next_statement_begins_anew(make_shop: Any) -> None:
    """Whatever it is, rollback() undoes it, as on a driver that is not in autocommit."""
    db = await make_shop()

    def work(engine: Engine) -> None:
        with engine.connect() as connection:
            connection.execute(text("create table other (id integer)"))
            connection.execute(text("analyze insert into item values (30)"))
            connection.rollback()

    await on_sync_engine(db, work)
    assert await _ids(db) == []


async def test_table_locks_that_the_next_begin_would_release_are_refused(make_shop: Any) -> None:
    """In autocommit they hold, and nobody inherits them."""
    db = await make_shop()

    def in_a_block(engine: Engine) -> None:
        with engine.begin() as connection:
            connection.execute(text("lock tables item write"))

    with pytest.raises(StatementRefusedError, match="raw_connection"):
        await on_sync_engine(db, in_a_block)

    def in_autocommit(engine: Engine) -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("lock tables item write"))
            connection.execute(text("insert into item values (40)"))

    await on_sync_engine(db, in_autocommit)
    assert await _ids(db) == [40]
    assert dict(db.stats().pool.lost) == {"session changed": 1}


async def test_several_statements_in_one_text_never_run(make_shop: Any) -> None:
    """Neither driver sends them as several: what somebody smuggles in is no statement of its own."""
    db = await make_shop()
    smuggled = "select 1; delete from item"
    with pytest.raises((StatementRefusedError, DatabaseError)):
        await db.fetch_all(smuggled)
    for work in (_in_a_block, _in_autocommit):
        with pytest.raises(Exception, match=r"(?i)not valid SQL|one statement"):
            await on_sync_engine(db, lambda engine, work=work: work(engine, smuggled))
    assert await db.fetch_value("select count(*) from item") == 1


def _in_a_block(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def _in_autocommit(engine: Engine, statement: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("select 1", Kind.PLAIN),
        ("  -- a comment\n  /* another */ (select 1)", Kind.PLAIN),
        ("with a as (select 1) select * from a", Kind.PLAIN),
        ("insert into t values (1)", Kind.PLAIN),
        ("# a comment\nCALL p()", Kind.ROUTINE),
        ("/*! call p() */", Kind.ROUTINE),
        ("/*M! call p() */", Kind.ROUTINE),
        ("begin not atomic call p(); end", Kind.ROUTINE),
        ("set statement max_statement_time=1 for call p()", Kind.ROUTINE),
        ("execute immediate 'commit'", Kind.ROUTINE),
        ("create table t (id integer)", Kind.DEFINITION),
        ("lock tables t write", Kind.LOCK),
        ("check table t", Kind.OTHER),
        ("", Kind.ROUTINE),
    ],
)
def test_what_a_statement_may_do_by_its_first_word(statement: str, kind: Kind, backend: Any) -> None:
    assert kind_of(statement) is kind
