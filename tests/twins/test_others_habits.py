"""What libraries and code written for SQLAlchemy's own engines do on ours: levels, logins, BEGIN as text, conflicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from prefiq_db import RetryPolicy, with_retry, with_retry_async
from prefiq_db.errors import (
    AuthenticationError,
    LockTimeoutError,
    SerializationError,
    ServerUsageError,
    TransactionAbortedError,
    UsageError,
)
from prefiq_db.events import StatementFailed
from tests.conftest import Backend
from tests.twins.harness import drive, make_database
from tests.twins.support import on_engine

SQLITE = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
SERVERS = pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)


# --- the isolation level -----------------------------------------------------------------------------


@SERVERS
async def test_the_level_that_was_chosen_is_told_before_and_after_begin(db: Any, backend: Backend) -> None:
    usual = {"postgresql": "READ COMMITTED", "mariadb": "REPEATABLE READ"}[backend.name]

    def levels(connection: sa.Connection) -> list[str]:
        before = connection.get_isolation_level()
        connection.execute(sa.text("select 1"))
        return [before, connection.get_isolation_level()]

    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        assert await on_engine(db, levels, isolation_level=level) == [level, level]
    assert await on_engine(db, levels) == [usual, usual]
    assert await on_engine(db, levels, isolation_level="AUTOCOMMIT") == [usual, usual], "as SQLAlchemy has it"


# --- who logs in -------------------------------------------------------------------------------------


@SERVERS
async def test_a_listener_may_say_who_logs_in(world: str, backend: Backend) -> None:
    """A token that is good for minutes takes the password's place, at each connection; the listener gets its record."""
    url = sa.make_url(backend.url)
    db = make_database(world, url.set(password="of-yesterday").render_as_string(hide_password=False))
    tokens = iter(["of-yesterday", url.password])

    @event.listens_for(getattr(db.engine, "sync_engine", db.engine), "do_connect")
    def log_in(dialect: Any, record: Any, cargs: list[Any], cparams: dict[str, Any]) -> None:
        assert record.info == {}
        cparams["password"] = next(tokens)

    with pytest.raises(AuthenticationError):
        await db.using(retry=RetryPolicy(attempts=1)).fetch_value("select 1")
    assert await db.fetch_value("select 1") == 1
    await db.close()


async def test_whatever_else_a_listener_changes_is_refused_by_name(make_db: Callable[..., Any]) -> None:
    db = make_db()

    @event.listens_for(getattr(db.engine, "sync_engine", db.engine), "do_connect")
    def slower(dialect: Any, record: Any, cargs: list[Any], cparams: dict[str, Any]) -> None:
        cparams["connect_timeout"] = 4711

    with pytest.raises(UsageError, match="changed connect_timeout") as caught:
        await db.fetch_value("select 1")
    assert "4711" not in str(caught.value)


async def test_a_connection_that_a_listener_makes_is_refused(make_db: Callable[..., Any]) -> None:
    class Foreign:
        closed = False

        def close(self) -> None:
            self.closed = True

    db, foreign = make_db(), Foreign()
    event.listen(getattr(db.engine, "sync_engine", db.engine), "do_connect", lambda *arguments: foreign)
    with pytest.raises(UsageError, match="a listener returned a connection of its own"):
        await db.fetch_value("select 1")
    assert foreign.closed


# --- BEGIN as text, on SQLite --------------------------------------------------------------------------


@SQLITE
@pytest.mark.parametrize("reads_first", [True, False])
async def test_begin_immediate_as_text_takes_the_writers_lock(
    db: Any, make_db: Callable[..., Any], reads_first: bool
) -> None:
    """As kombu's queue does it in a session, and others on a connection."""
    await db.execute("create table message (id integer primary key, taken integer)")
    await db.execute("insert into message values (1, 0)")
    other = make_db(lock_timeout_seconds=0.05)
    async with db.session() as session:
        if reads_first:
            assert len((await session.execute(sa.text("select * from message"))).all()) == 1
            await other.execute("update message set taken = 0")  # a snapshot of before would be too old to write on
        await session.execute(sa.text("BEGIN IMMEDIATE TRANSACTION"))
        with pytest.raises(LockTimeoutError):
            await other.execute("update message set taken = 2")
        (message,) = (await session.execute(sa.text("select id from message where taken = 0"))).all()
        await session.execute(sa.text("update message set taken = 1 where id = :id"), {"id": message.id})
        await session.commit()
    assert await other.fetch_value("select taken from message") == 1

    def rolled_back(connection: sa.Connection) -> None:
        connection.exec_driver_sql(" begin exclusive ")
        connection.exec_driver_sql("update message set taken = 3")
        connection.rollback()

    await on_engine(db, rolled_back)
    assert await db.fetch_value("select taken from message") == 1


@SQLITE
async def test_begin_after_a_write_is_refused_and_one_that_waits_in_vain_leaves_nothing(
    db: Any, make_db: Callable[..., Any]
) -> None:
    await db.execute("create table message (id integer primary key)")

    def after_a_write(connection: sa.Connection) -> None:
        connection.exec_driver_sql("insert into message values (1)")
        with pytest.raises(ServerUsageError):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        connection.commit()

    await on_engine(db, after_a_write)
    assert await db.fetch_value("select count(*) from message") == 1

    # What SQLite doesn't count: it would be committed, and the savepoint released.
    for before in ("create table made (id integer)", "alter table message rename to letter", "pragma user_version = 7"):

        def after_a_definition(connection: sa.Connection, before: str = before) -> None:
            connection.exec_driver_sql(before)
            with pytest.raises(ServerUsageError):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.rollback()

        await on_engine(db, after_a_definition)

    def in_a_savepoint(connection: sa.Connection) -> None:
        with connection.begin_nested() as nested:
            with pytest.raises(ServerUsageError):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            nested.rollback()
        connection.rollback()

    await on_engine(db, in_a_savepoint)
    assert await db.fetch_value("select count(*) from sqlite_master where name = 'made' or name = 'letter'") == 0
    assert await db.fetch_value("pragma user_version") == 0
    other = make_db(lock_timeout_seconds=0.05)

    def in_vain(connection: sa.Connection) -> None:
        with pytest.raises(LockTimeoutError):
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(TransactionAbortedError):  # and not statement by statement
            connection.exec_driver_sql("insert into message values (2)")
        connection.rollback()

    async with db.transaction() as tx:
        await tx.execute("insert into message values (3)")
        await on_engine(other, in_vain)
    assert await other.fetch_value("select count(*) from message") == 2


# --- sessions that read and then write, on SQLite -----------------------------------------------------


@SQLITE
@pytest.mark.parametrize("committed", [True, False])
async def test_a_session_that_read_before_another_wrote_has_a_conflict_and_may_run_again(
    db: Any, make_db: Callable[..., Any], world: str, committed: bool
) -> None:
    """Whether the other one has committed yet or not: no wait would help. The event says what the caller gets."""
    await db.execute("create table counter (n integer)")
    await db.execute("insert into counter values (0)")
    other = make_db()
    told: list[StatementFailed] = []

    @db.hooks.on_error
    def tell(failed: Any) -> None:
        if isinstance(failed, StatementFailed):
            told.append(failed)

    errors: list[BaseException] = []

    async def count() -> None:
        disturbing = other.transaction()
        async with db.session() as session:
            read = (await session.execute(sa.text("select n from counter"))).scalar()
            if not errors:
                tx = await disturbing.__aenter__()
                await tx.execute("update counter set n = n + 1")
                if committed:
                    await disturbing.__aexit__(None, None, None)
            try:
                await session.execute(sa.text("update counter set n = :n"), {"n": read + 10})
                await session.commit()
            except SerializationError as error:
                errors.append(error)
                raise
            finally:
                if len(errors) == 1 and not committed:
                    await disturbing.__aexit__(None, None, None)
                    errors.append(errors[0])

    if world == "async":
        await with_retry_async(count)()
    else:
        with_retry(lambda: drive(count()))()
    assert isinstance(errors[0], SerializationError)
    assert [str(each.kind) for each in told] == ["serialization"]
    assert await db.fetch_value("select n from counter") == 11


@SQLITE
async def test_control_a_first_write_waits_and_is_told_as_a_wait(db: Any, make_db: Callable[..., Any]) -> None:
    await db.execute("create table counter (n integer)")
    other = make_db(lock_timeout_seconds=0.05)
    async with db.transaction() as tx:
        await tx.execute("insert into counter values (1)")
        async with other.session() as session:
            with pytest.raises(LockTimeoutError):
                await session.execute(sa.text("insert into counter values (2)"))
        with pytest.raises(LockTimeoutError):
            await other.execute("insert into counter values (2)")
