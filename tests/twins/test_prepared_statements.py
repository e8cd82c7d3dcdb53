"""A table that somebody alters costs no failed call, although psycopg keeps what it has prepared."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import RetryPolicy
from prefiq_db.errors import PrefiqDbError, SchemaError
from prefiq_db.events import StatementFailed
from tests.conftest import Backend
from tests.twins.support import on_engine, upgrade_schema

_ONLY = pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
ONCE = RetryPolicy(attempts=1)
QUICK = RetryPolicy(wait_initial_seconds=0.001, wait_max_seconds=0.002)
WARM = 8  # psycopg prepares at the sixth
READ = "select * from item where id = :id"
WRITE = "insert into item (word) values (:word)"
CREATE = "create table item (id serial primary key, word text)"
MOOD = "create type mood as enum ('calm', 'wild')"
NEW_MOOD = (
    "alter table item alter column word type text",
    "drop type mood",
    "create type mood as enum ('calm', 'wild', 'new')",
    "alter table item alter column word type mood using word::mood",
)

Call = Callable[[Any], Awaitable[Any]]


async def read(db: Any) -> Any:
    return await db.fetch_all(READ, {"id": 1})


async def write(db: Any) -> Any:
    return await db.execute(WRITE, {"word": "7"})


async def write_and_return(db: Any) -> Any:
    return await db.fetch_one(WRITE + " returning *", {"word": "7"})


async def look_for_a_word(db: Any) -> Any:
    return await db.fetch_all("select id from item where word = :word", {"word": "7"})


async def call_a_function(db: Any) -> Any:
    return await db.fetch_value("select twice(:n)", {"n": "7"})


TO_A_NUMBER = ("alter table item alter column word type integer using word::integer",)
ADD = ("alter table item add column more integer",)
CASES: dict[str, tuple[str, tuple[str, ...], Call]] = {
    "0A000 a column more": (CREATE, ADD, read),
    "0A000 returning a column more": (CREATE, ADD, write_and_return),
    "XX000 an enum replaced": (
        f"{MOOD}; create table item (id serial primary key, word mood)",
        NEW_MOOD,
        lambda db: db.execute(WRITE, {"word": "calm"}),
    ),
    "42804 another type": (CREATE, TO_A_NUMBER, write),
    "42883 another type in where": (CREATE, TO_A_NUMBER, look_for_a_word),
    "42883 another function": (
        "create function twice(n text) returns text language sql as 'select n || n'",
        (
            "drop function twice",
            "create function twice(n integer) returns integer language sql as 'select n * 2'",
        ),
        call_a_function,
    ),
}


def _altered(backend: Backend, *statements: str) -> None:
    assert backend.server is not None
    database = sa.make_url(backend.url).database
    for statement in statements:
        backend.server.execute(statement, database=database)


async def _warm(db: Any, call: Call) -> None:
    for _ in range(WARM):
        await call(db)


@_ONLY
@pytest.mark.parametrize("case", CASES)
async def test_an_alteration_elsewhere_costs_no_failed_call(make_db: Any, backend: Backend, case: str) -> None:
    """Not a single one, also where nothing may be repeated; and the listeners hear of one statement that went well."""
    create, alteration, call = CASES[case]
    _altered(backend, *create.split("; "))
    db = make_db(pool_size=1, max_overflow=0).using(retry=ONCE)
    failed: list[StatementFailed] = []
    db.hooks.on_error(failed.append)
    await _warm(db, call)
    _altered(backend, *alteration)
    before = db.stats().statement_count
    await _warm(db, call)
    assert db.stats().statement_count == before + WARM
    assert failed == []
    assert db.stats().error_count == 0
    if create == CREATE and call in (write, write_and_return):
        assert await db.fetch_value("select count(*) from item") == 2 * WARM, "each once"
    if call is write_and_return:
        assert (await call(db))._fields == ("id", "word", "more")


@_ONLY
async def test_inside_a_transaction_the_whole_of_it_runs_again(make_db: Any, backend: Backend) -> None:
    """There the error has ended the transaction: it says that it passes, and the body runs twice, once to effect."""
    db = make_db(pool_size=1, max_overflow=0)
    _altered(backend, CREATE)
    await _warm(db, write_and_return)
    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        await tx.execute("insert into item (word) values ('before')")
        await write_and_return(tx)

    _altered(backend, *ADD)
    with pytest.raises(SchemaError) as caught:
        async with db.transaction() as tx:
            await write_and_return(tx)
    assert (caught.value.code, caught.value.is_transient) == ("0A000", True)
    assert caught.value.classification.retry_transaction
    await _warm(db, write_and_return)
    _altered(backend, "alter table item add column another integer")
    await db.run_in_transaction(body, retry=QUICK)
    assert calls == 2
    assert await db.fetch_value("select count(*) from item where word = 'before'") == 1
    assert await db.fetch_value("select count(*) from item") == 2 * WARM + 2


@_ONLY
async def test_an_exactly_once_transaction_runs_again_too(make_db: Any, backend: Backend) -> None:
    """Once, whatever was prepared."""
    upgrade_schema(backend)
    db = make_db(pool_size=1, max_overflow=0)
    _altered(backend, CREATE)
    await _warm(db, write_and_return)
    _altered(backend, *ADD)
    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        await write_and_return(tx)

    await db.run_in_transaction(body, exactly_once=True, retry=QUICK)
    assert (calls, await db.fetch_value("select count(*) from item")) == (2, WARM + 1)


@_ONLY
async def test_a_session_runs_again_too(make_db: Any, backend: Backend) -> None:
    """Alone it says that it passes, in both trees, and what is prepared is forgotten; inside, the body runs twice."""
    db = make_db(pool_size=1, max_overflow=0)
    _altered(backend, CREATE)
    statement, row = sa.text(WRITE + " returning *"), {"word": "7"}
    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        async with tx.session() as session:
            await session.execute(statement, row)
            await session.commit()

    async def alone() -> None:
        async with db.session() as session:
            await session.execute(statement, row)
            await session.commit()

    for _ in range(WARM):
        await alone()
    _altered(backend, *ADD)
    with pytest.raises(sa.exc.DBAPIError) as caught:
        await alone()
    assert isinstance(caught.value, SchemaError)
    assert caught.value.classification.retry_transaction
    for _ in range(WARM):
        await alone()
    _altered(backend, "alter table item add column another integer")
    await db.run_in_transaction(body, retry=QUICK)
    assert (calls, await db.fetch_value("select count(*) from item")) == (2, 2 * WARM + 1)


@_ONLY
async def test_a_connection_in_autocommit_prepares_anew(make_db: Any, backend: Backend) -> None:
    """As a one-shot does: nothing is open that could be lost."""
    db = make_db(pool_size=1, max_overflow=0)
    _altered(backend, CREATE)

    def work(connection: sa.Connection) -> int:
        for _ in range(WARM):
            connection.execute(sa.text(WRITE + " returning *"), {"word": "7"}).all()
        return WARM

    await on_engine(db, work, isolation_level="AUTOCOMMIT")
    _altered(backend, *ADD)
    await on_engine(db, work, isolation_level="AUTOCOMMIT")
    assert await db.fetch_value("select count(*) from item") == 2 * WARM


@_ONLY
async def test_rows_are_sent_again(make_db: Any, backend: Backend) -> None:
    """execute_many prepares at once; its transaction runs again, and each row is there once."""
    db = make_db(pool_size=1, max_overflow=0, retry=QUICK)
    _altered(backend, CREATE)
    rows = [{"word": str(number)} for number in range(5)]
    assert await db.execute_many(WRITE, rows) == 5
    _altered(backend, *TO_A_NUMBER)
    assert await db.execute_many(WRITE, rows) == 5
    assert await db.fetch_value("select count(*) from item") == 10


@_ONLY
async def test_rows_that_are_wrong_are_not_sent_again(make_db: Any, backend: Backend) -> None:
    """A statement that was never right is no outdated one, although psycopg prepares it at once."""
    db = make_db(pool_size=1, max_overflow=0, retry=QUICK)
    for _ in range(2):
        with pytest.raises(SchemaError) as caught:
            await db.execute_many("insert into nowhere (word) values (:word)", [{"word": "a"}, {"word": "b"}])
        assert (caught.value.code, caught.value.is_transient) == ("42P01", False)
    assert db.stats().retry_count == 0


@_ONLY
async def test_what_is_really_gone_says_so(make_db: Any, backend: Backend) -> None:
    """A prepared statement whose table was dropped is tried once more, and fails with the plain word."""
    db = make_db(pool_size=1, max_overflow=0, retry=QUICK)
    _altered(backend, CREATE)
    await _warm(db, read)
    _altered(backend, "drop table item")
    with pytest.raises(SchemaError) as caught:
        await read(db)
    assert (caught.value.code, caught.value.is_transient) == ("42P01", False)
    with pytest.raises(SchemaError):
        await db.run_in_transaction(read)
    assert db.stats().retry_count == 0


@_ONLY
@pytest.mark.parametrize("careful", [True, False], ids=["", "control"])
async def test_a_call_that_may_have_committed_is_not_sent_again(
    make_db: Any, backend: Backend, careful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A procedure commits in its middle: its failure does not mean that nothing was done."""
    if not careful:
        monkeypatch.setattr("prefiq_db.drivers.prepared._MAY_COMMIT", re.compile("(?!)"))
    db = make_db(pool_size=1, max_overflow=0, retry=ONCE)
    _altered(
        backend,
        CREATE,
        "create table answer (word text)",
        "create procedure work(n integer) language plpgsql as $$ begin"
        " insert into item (word) values ('half'); commit;"
        " if exists (select 1 from answer) then raise exception 'no' using errcode = '42883'; end if; end $$",
    )
    for _ in range(WARM):
        await db.execute("call work(:n)", {"n": 1})
    _altered(backend, "insert into answer values ('fail')")
    with pytest.raises(PrefiqDbError):
        await db.execute("call work(:n)", {"n": 1})
    assert await db.fetch_value("select count(*) from item") == WARM + (1 if careful else 2)


@_ONLY
async def test_somebody_elses_session(make_db: Any, backend: Backend) -> None:
    """Behind a pooler a prepared statement is missing, or there already: nothing is prepared there from then on."""
    db = make_db(pool_size=1, max_overflow=0).using(retry=ONCE)
    _altered(backend, CREATE)
    await _warm(db, read)
    # In a DO block, where psycopg doesn't see it, as little as what another client of the pooler does.
    behind_our_back = "do $$ begin execute '{}'; end $$"
    await on_engine(
        db,
        lambda connection: connection.exec_driver_sql(behind_our_back.format("deallocate all")),
        isolation_level="AUTOCOMMIT",
    )
    await _warm(db, read)
    assert await db.fetch_value("select count(*) from pg_prepared_statements") == 0
    assert db.stats().error_count == 0


@_ONLY
async def test_a_name_that_is_taken(make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program that counts as we do. Ours never meet: see test_forgotten_pooler.py."""
    monkeypatch.setattr("prefiq_db.drivers.psycopg_preparing.secrets.randbits", lambda bits: 0)
    db = make_db(pool_size=1, max_overflow=0).using(retry=ONCE)
    _altered(backend, CREATE)
    names = "; ".join(f"execute ''prepare _pg3_{number} as select {number}''" for number in range(3))
    await on_engine(
        db,
        lambda connection: connection.exec_driver_sql(f"do 'begin {names}; end'"),
        isolation_level="AUTOCOMMIT",
    )
    await _warm(db, read)
    assert await db.fetch_value("select count(*) from pg_prepared_statements") == 3, "the others' stay"
    assert db.stats().error_count == 0


@_ONLY
async def test_control_without_preparing_anew_it_fails_for_good(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What psycopg does by itself: every call on that connection, and a retry doesn't help."""
    for sender in ("preparing_anew", "awaiting_postgresql"):
        monkeypatch.setattr(f"prefiq_db.dialects.{sender}.is_outdated", lambda *arguments: False)
    db = make_db(pool_size=1, max_overflow=0, retry=QUICK)
    _altered(backend, CREATE)
    await _warm(db, read)
    _altered(backend, *ADD)
    for _ in range(3):
        with pytest.raises(SchemaError):
            await read(db)


@pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
@pytest.mark.parametrize("code", [1412, 1615])
async def test_mariadb_asks_for_another_try(make_db: Any, backend: Backend, code: int) -> None:
    """A table that was altered under a procedure: the server says that it must be prepared again, and it is."""
    db = make_db(retry=QUICK)
    await db.execute("create table item (word varchar(9))")
    _altered(
        backend,
        "create table failed (n integer) engine = aria transactional = 0",
        "create procedure work() begin"
        " if not exists (select 1 from failed) then"
        f" insert into failed values (1); signal sqlstate 'HY000' set mysql_errno = {code}; end if;"
        " insert into item values ('done'); end",
    )
    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        await tx.execute("insert into item values ('before')")
        await tx.execute("call work()")

    await db.run_in_transaction(body)
    assert calls == 2
    assert await db.fetch_value("select count(*) from item") == 2
