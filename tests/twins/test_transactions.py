"""Transactions keep their word: all or nothing, nested, isolated, bounded, and honest about what became of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm, text

from prefiq_db.errors import (
    ClosedError,
    ConcurrencyError,
    DeadlineError,
    ErrorKind,
    LockTimeoutError,
    NestingError,
    ReadOnlyError,
    StatementRefusedError,
    TransactionAbortedError,
    TransactionTimeoutError,
    UniqueViolationError,
    UsageError,
)
from tests.conftest import Backend
from tests.twins.harness import Harness
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK, in_engine_begin, on_engine, on_sync_engine


class Base(orm.DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    quantity: orm.Mapped[int]


@pytest.fixture
def stock(db: Any, world: str, loop_runner: Any) -> Any:
    """The database with an empty table."""
    from tests.twins.harness import drive

    (loop_runner.run if world == "async" else drive)(db.execute(CREATE_STOCK))
    return db


async def ids(db: Any) -> list[int]:
    return [row.id for row in await db.fetch_all("select id from stock order by id")]


def row(number: int) -> dict[str, int]:
    return {"id": number, "quantity": number}


class Stop(Exception):  # noqa: N818 - it is no error
    """Leaves a block."""


# --- commit and rollback -------------------------------------------------------------------------


async def test_two_statements_are_committed_together(stock: Any, make_db: Callable[..., Any]) -> None:
    """Nobody else sees the first statement before the block is left, and everybody sees both afterwards."""
    other = make_db()
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(1))
        await stock.execute(INSERT_STOCK, row(2))
        assert await ids(stock) == [1, 2]
        assert await ids(other) == []
        assert tx.outcome == "active"
    assert tx.outcome == "committed"
    assert await ids(other) == [1, 2]


async def test_an_error_rolls_everything_back(stock: Any) -> None:
    """An error that leaves the block takes both statements with it, and passes on as it is."""
    error = Stop("the caller's own")
    with pytest.raises(Stop) as caught:
        async with stock.transaction() as tx:
            await tx.execute(INSERT_STOCK, row(1))
            await stock.execute(INSERT_STOCK, row(2))
            raise error
    assert caught.value is error
    assert tx.outcome == "not committed"
    assert await ids(stock) == []
    assert stock.stats().pool.checked_out == 0


async def test_a_failed_statement_rolls_everything_back(stock: Any) -> None:
    """A constraint that fails in the middle leaves nothing."""
    with pytest.raises(UniqueViolationError):
        async with stock.transaction() as tx:
            await tx.execute(INSERT_STOCK, row(1))
            await tx.execute(INSERT_STOCK, row(1))
    assert await ids(stock) == []


async def test_a_forgotten_commit_is_rolled_back(stock: Any) -> None:
    """Work on db.engine without commit() is gone, as SQLAlchemy's users expect; with commit() or begin() it stays."""

    def forget(connection: sa.Connection) -> None:
        connection.execute(text(INSERT_STOCK), row(1))

    def commit(connection: sa.Connection) -> None:
        connection.execute(text(INSERT_STOCK), row(2))
        connection.commit()

    await on_engine(stock, forget)
    assert await ids(stock) == []
    await on_engine(stock, commit)
    await in_engine_begin(stock, lambda connection: connection.execute(text(INSERT_STOCK), row(3)).rowcount)
    assert await ids(stock) == [2, 3]

    def fail(connection: sa.Connection) -> None:
        connection.execute(text(INSERT_STOCK), row(4))
        raise Stop

    with pytest.raises(Stop):
        await in_engine_begin(stock, fail)
    assert await ids(stock) == [2, 3]


async def test_a_one_shot_after_a_rolled_back_transaction_is_committed(make_db: Callable[..., Any]) -> None:
    """One connection serves both kinds of work in turn, and none of it leaks into the next."""
    db, other = make_db(pool_size=1, max_overflow=0), make_db()
    await db.execute(CREATE_STOCK)
    with pytest.raises(Stop):
        async with db.transaction(isolation="serializable") as tx:
            await tx.execute(INSERT_STOCK, row(1))
            raise Stop
    await db.execute(INSERT_STOCK, row(2))
    assert await ids(other) == [2]
    async with db.transaction(read_only=True) as tx:
        assert await ids(tx) == [2]
    await db.execute(INSERT_STOCK, row(3))
    assert await ids(other) == [2, 3]


# --- nesting -------------------------------------------------------------------------------------


async def test_three_levels_commit_and_roll_back_on_their_own(stock: Any) -> None:
    """A nested block is a savepoint: it can be undone alone, and what it kept still depends on the outermost."""
    async with stock.transaction() as outer:
        await outer.execute(INSERT_STOCK, row(1))
        async with stock.transaction() as middle:
            await stock.execute(INSERT_STOCK, row(2))
            with pytest.raises(Stop):
                async with middle.transaction() as inner:
                    await inner.execute(INSERT_STOCK, row(3))
                    raise Stop
            assert inner.outcome == "not committed"
            async with stock.transaction():
                await stock.execute(INSERT_STOCK, row(4))
        with pytest.raises(Stop):
            async with stock.transaction() as undone:
                await undone.execute(INSERT_STOCK, row(5))
                async with stock.transaction():
                    await stock.execute(INSERT_STOCK, row(6))
                raise Stop
        assert await ids(stock) == [1, 2, 4]
    assert await ids(stock) == [1, 2, 4]


async def test_the_outermost_takes_everything_with_it(stock: Any) -> None:
    """Three committed levels are nothing when the outermost fails."""
    with pytest.raises(Stop):
        async with stock.transaction():
            async with stock.transaction(), stock.transaction():
                await stock.execute(INSERT_STOCK, row(1))
            raise Stop
    assert await ids(stock) == []


async def test_an_error_of_the_database_in_a_nested_block_costs_only_that_block(stock: Any) -> None:
    """A nested block makes a risky statement harmless, also where an error aborts the whole transaction."""
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(1))
        with pytest.raises(UniqueViolationError):
            async with stock.transaction():
                await stock.execute(INSERT_STOCK, row(1))
        await tx.execute(INSERT_STOCK, row(2))
    assert await ids(stock) == [1, 2]


async def test_durable_refuses_to_be_nested(stock: Any) -> None:
    """transaction(durable=True) means: committed when left; inside another one it raises before anything is sent."""
    async with stock.transaction(durable=True) as tx:
        await tx.execute(INSERT_STOCK, row(1))
        before = stock.stats().statement_count
        with pytest.raises(NestingError, match="durable"):
            async with stock.transaction(durable=True):
                pass
        with pytest.raises(NestingError, match="durable"):
            tx.transaction(durable=True)
        assert stock.stats().statement_count == before
    assert await ids(stock) == [1]


async def test_a_savepoint_cannot_change_what_begin_decides(stock: Any) -> None:
    """Isolation and read_only belong to BEGIN: a nested block that asks for others raises; the same are fine."""
    async with stock.transaction(isolation="serializable"):
        with pytest.raises(NestingError, match="isolation"):
            stock.transaction(isolation="read committed")
        with pytest.raises(NestingError, match="read_only"):
            stock.transaction(read_only=True)
        async with stock.transaction(isolation="SERIALIZABLE"):
            await stock.execute(INSERT_STOCK, row(1))
    async with stock.transaction(read_only=True), stock.transaction(read_only=True):
        assert await ids(stock) == [1]


# --- isolation, read only, timeout ---------------------------------------------------------------


async def test_the_isolation_level_is_in_force_on_the_servers_word(stock: Any, backend: Backend) -> None:
    """Each level is what PostgreSQL says of the running transaction; afterwards the default is back."""
    if backend.name != "postgresql":
        pytest.skip("only PostgreSQL tells the level of the running transaction; see the tests by behaviour")
    for level in ("READ COMMITTED", "repeatable read", "REPEATABLE_READ", "serializable"):
        async with stock.transaction(isolation=level) as tx:
            assert await tx.fetch_value("show transaction_isolation") == level.lower().replace("_", " ")
        async with stock.transaction() as tx:
            assert await tx.fetch_value("show transaction_isolation") == "read committed"


def is_locked(backend: Backend) -> bool:
    """Return whether somebody else's read of the table holds writers off: on MariaDB only a SERIALIZABLE one does."""
    assert backend.server is not None
    try:
        backend.server.execute("select * from stock for update nowait", sa.make_url(backend.url).database)
    except Exception as error:
        if error.args[0] != 1205:
            raise
        return True
    return False


async def test_serializable_reads_lock_on_mariadb(stock: Any, backend: Backend) -> None:
    """By behaviour: MariaDB's SERIALIZABLE turns plain reads into locking ones; the next transaction is as usual."""
    if backend.name != "mariadb":
        pytest.skip("MariaDB's way")
    await stock.execute(INSERT_STOCK, row(1))
    for level, locks in (("serializable", True), (None, False), ("repeatable read", False)):
        async with stock.transaction(isolation=level) as tx:
            assert await ids(tx) == [1]
            assert is_locked(backend) is locks


async def test_repeatable_read_keeps_its_picture(stock: Any, make_db: Callable[..., Any], backend: Backend) -> None:
    """By behaviour: REPEATABLE READ does not see what others commit meanwhile, READ COMMITTED does."""
    other = make_db()
    async with stock.transaction(isolation="repeatable read", read_only=True):
        assert await stock.fetch_value(COUNT_STOCK) == 0
        await other.execute(INSERT_STOCK, row(1))
        assert await stock.fetch_value(COUNT_STOCK) == 0
    if backend.name == "sqlite":  # its picture is always that of the first read
        return
    async with stock.transaction(isolation="read committed"):
        assert await stock.fetch_value(COUNT_STOCK) == 1
        await other.execute(INSERT_STOCK, row(2))
        assert await stock.fetch_value(COUNT_STOCK) == 2


async def test_serializable_refuses_a_write_skew(
    make_db: Callable[..., Any], stock: Any, harness: Harness, backend: Backend
) -> None:
    """Of two SERIALIZABLE transactions that each read what the other writes, one fails and may be repeated."""
    if backend.name == "sqlite":
        pytest.skip("SQLite lets one writer in at a time")
    await stock.execute_many(INSERT_STOCK, [row(1), row(2)])
    read = [harness.event(), harness.event()]

    async def worker(mine: int) -> None:
        async with stock.transaction(isolation="serializable") as tx:
            await tx.fetch_value("select sum(quantity) from stock")
            read[mine].set()
            await read[1 - mine].wait()
            await tx.execute("update stock set quantity = 0 where id = :id", {"id": mine + 1})

    results = await harness.together(lambda: worker(0), lambda: worker(1), return_exceptions=True)
    (failure,) = [result for result in results if result is not None]
    assert isinstance(failure, ConcurrencyError)
    assert failure.is_transient
    assert failure.classification.retry_transaction
    assert await stock.fetch_value("select count(*) from stock where quantity = 0") == 1


async def test_wrong_options_are_refused_at_once(db: Any) -> None:
    """An unknown isolation level or a timeout that is none raises when it is given."""
    with pytest.raises(UsageError, match="isolation: expected one of"):
        db.transaction(isolation="chaos")
    with pytest.raises(UsageError, match="isolation: expected one of"):
        db.transaction(isolation="AUTOCOMMIT")
    for wrong in (0, -1, "5", True, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="timeout: expected seconds"):
            db.transaction(timeout=wrong)


async def test_read_only_refuses_writes(stock: Any) -> None:
    """A write in a read-only transaction fails as READ_ONLY, is sent once, and the next transaction may write."""
    await stock.execute(INSERT_STOCK, row(1))
    async with stock.transaction(read_only=True) as tx:
        assert await ids(tx) == [1]
    before = stock.stats().statement_count
    with pytest.raises(ReadOnlyError) as refused:
        async with stock.transaction(read_only=True) as tx:
            await tx.execute(INSERT_STOCK, row(2))
    assert refused.value.kind is ErrorKind.READ_ONLY
    assert stock.stats().statement_count == before + 1
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(3))
    assert await ids(stock) == [1, 3]


async def test_a_read_only_transaction_is_not_repeated_for_being_read_only(stock: Any) -> None:
    """What can't succeed isn't tried again: the READ ONLY was ours, not a failover's."""
    calls = 0
    with pytest.raises(ReadOnlyError):
        for attempt in stock.attempts(read_only=True):
            async with attempt as tx:
                calls += 1
                await tx.execute(INSERT_STOCK, row(1))
    assert calls == 1
    before = stock.stats().statement_count
    with pytest.raises(ReadOnlyError):
        await stock.using(read_only=True).execute(INSERT_STOCK, row(1))
    assert stock.stats().statement_count == before + 1
    assert await ids(stock) == []


async def test_a_transaction_that_takes_too_long_is_not_committed(stock: Any, backend: Backend) -> None:
    """timeout= bounds each statement and, at the latest at COMMIT, the whole block; then nothing is written."""
    from tests.twins.support import slow_read

    with pytest.raises(DeadlineError) as slow:
        async with stock.transaction(timeout=0.1) as tx:
            await tx.execute(INSERT_STOCK, row(1))
            await tx.fetch_all(slow_read(backend))
    assert slow.value.kind is ErrorKind.STATEMENT_TIMEOUT
    tx = stock.transaction(timeout=0.000001)
    with pytest.raises(TransactionTimeoutError):
        async with tx:
            pass
    assert tx.outcome == "not committed"
    assert await ids(stock) == []
    assert await stock.fetch_value("select 1") == 1


async def test_waiting_for_a_lock_counts_against_the_timeout(make_db: Callable[..., Any]) -> None:
    """A transaction with a timeout does not wait for a lock longer than that; the lock timeout bounds the rest."""
    holder, waiter = make_db(), make_db(lock_timeout_seconds=60, statement_timeout_seconds=60)
    await holder.execute(CREATE_STOCK)
    await holder.execute(INSERT_STOCK, row(1))
    async with holder.transaction() as tx:
        await tx.execute("update stock set quantity = 2")
        with pytest.raises((DeadlineError, LockTimeoutError)):  # SQLite waits in BEGIN, the others in the statement
            async with waiter.transaction(timeout=0.1) as other:
                await other.execute("update stock set quantity = 3")
        with pytest.raises((DeadlineError, LockTimeoutError)):
            await waiter.using(timeout=0.1).execute("update stock set quantity = 3")
    await waiter.execute("update stock set quantity = quantity + 1")
    assert await holder.fetch_value("select quantity from stock") == 3


# --- callbacks -----------------------------------------------------------------------------------


async def test_callbacks_run_in_order_after_the_commit(stock: Any, make_db: Callable[..., Any]) -> None:
    """on_commit functions run once COMMIT is through, in the order of their registration, on a free database."""
    other, seen = make_db(), []
    async with stock.transaction() as tx:

        @tx.on_commit
        async def first() -> None:
            seen.append(("first", await ids(other), await ids(stock)))

        tx.on_commit(lambda: seen.append(("second",)))
        tx.on_rollback(lambda: seen.append(("never",)))
        await tx.execute(INSERT_STOCK, row(1))
        async with stock.transaction() as inner:
            inner.on_commit(lambda: seen.append(("inner",)))
        assert seen == []
        tx.on_commit(lambda: seen.append(("last",)))
    assert seen == [("first", [1], [1]), ("second",), ("inner",), ("last",)]


async def test_callbacks_of_a_nested_block_share_its_fate(stock: Any) -> None:
    """A nested block that is rolled back calls its on_rollback at once, its on_commit never."""
    seen: list[str] = []
    async with stock.transaction() as tx:
        with pytest.raises(Stop):
            async with stock.transaction() as undone:
                undone.on_commit(lambda: seen.append("undone committed"))
                undone.on_rollback(lambda: seen.append("undone rolled back"))
                raise Stop
        assert seen == ["undone rolled back"]
        tx.on_commit(lambda: seen.append("outer committed"))
    assert seen == ["undone rolled back", "outer committed"]
    seen.clear()
    with pytest.raises(Stop):
        async with stock.transaction() as tx:
            async with stock.transaction() as kept:
                kept.on_commit(lambda: seen.append("kept committed"))
                kept.on_rollback(lambda: seen.append("kept rolled back"))
            tx.on_rollback(lambda: seen.append("outer rolled back"))
            raise Stop
    assert seen == ["kept rolled back", "outer rolled back"]


async def test_errors_of_callbacks_never_look_like_a_failed_transaction(
    stock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that raises is logged without its text and kept; the others run and the commit stands."""
    seen: list[str] = []

    def fails() -> None:
        raise ValueError("planted")

    with caplog.at_level(logging.ERROR, logger="prefiq_db.transaction"):
        async with stock.transaction() as tx:
            tx.on_commit(fails)
            tx.on_commit(lambda: seen.append("ran"))
            await tx.execute(INSERT_STOCK, row(1))
    assert tx.outcome == "committed"
    assert seen == ["ran"]
    assert [type(error) for error in tx.callback_errors] == [ValueError]
    assert "planted" not in caplog.text
    assert "ValueError" in caplog.text
    assert await ids(stock) == [1]
    with pytest.raises(Stop):
        async with stock.transaction() as tx:
            tx.on_rollback(fails)
            tx.on_rollback(lambda: seen.append("ran again"))
            raise Stop
    assert seen == ["ran", "ran again"]
    assert len(tx.callback_errors) == 1


async def test_a_callback_that_is_no_function_is_refused(stock: Any, world: str) -> None:
    """on_commit("x") raises at once, and the transaction goes on."""
    if world == "sync":
        pytest.skip("the harness wraps callbacks of the sync world")
    async with stock.transaction() as tx:
        with pytest.raises(UsageError, match="on_commit: expected a function"):
            tx.on_commit("x")
        await tx.execute(INSERT_STOCK, row(1))
    assert await ids(stock) == [1]


async def test_a_callback_may_open_a_transaction(stock: Any) -> None:
    """on_commit and on_rollback find the database free: what they do is a transaction of its own."""

    async def write() -> None:
        async with stock.transaction(durable=True) as another:
            await another.execute(INSERT_STOCK, row(2))

    async def note() -> None:
        await stock.execute(INSERT_STOCK, row(3))

    async with stock.transaction() as tx:
        tx.on_commit(write)
        await tx.execute(INSERT_STOCK, row(1))
    with pytest.raises(Stop):
        async with stock.transaction() as tx:
            tx.on_rollback(note)
            raise Stop
    assert not tx.callback_errors
    assert await ids(stock) == [1, 2, 3]


async def test_a_callback_that_never_ends_does_not_unsay_the_commit(
    make_db: Callable[..., Any], world: str, harness: Harness
) -> None:
    """on_commit runs within a budget; when that is used up the transaction is still committed, and says so."""
    if world == "sync":
        pytest.skip("a sync callback can't be interrupted")
    db = make_db(statement_timeout_seconds=1, connect_timeout_seconds=5)
    await db.execute(CREATE_STOCK)
    core = getattr(db, "_wrapped", db)._core
    core.instance.commit_budget_seconds = 3

    async def never() -> None:
        await harness.event().wait()

    async with db.transaction() as tx:
        tx.on_commit(never)
        await tx.execute(INSERT_STOCK, row(1))
    assert tx.outcome == "committed"
    assert len(tx.callback_errors) == 1
    assert await ids(db) == [1]


# --- explicit and ambient ------------------------------------------------------------------------


async def test_ambient_and_explicit_use_are_one_transaction(stock: Any) -> None:
    """Inside the block, verbs of db, of tx and of a view use the one pinned connection."""
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(1))
        await stock.execute(INSERT_STOCK, row(2))
        await stock.using(timeout=20).execute(INSERT_STOCK, row(3))
        assert stock.stats().pool.checked_out == 1
        assert await ids(tx) == await ids(stock) == [1, 2, 3]
    assert await ids(stock) == [1, 2, 3]


async def test_an_ended_transaction_cannot_be_used_again(stock: Any) -> None:
    """Every verb of a tx that has ended, committed or not, raises ClosedError."""
    async with stock.transaction() as committed:
        await committed.execute(INSERT_STOCK, row(1))
    with pytest.raises(Stop):
        async with stock.transaction() as undone:
            raise Stop
    async with stock.transaction() as outer:
        async with stock.transaction() as nested:
            pass
        for tx in (committed, undone, nested):
            for verb, arguments in (
                ("fetch_all", ["select 1"]),
                ("fetch_one", ["select 1"]),
                ("fetch_value", ["select 1"]),
                ("execute", [INSERT_STOCK, row(2)]),
                ("execute_many", [INSERT_STOCK, [row(2)]]),
            ):
                with pytest.raises(ClosedError):
                    await getattr(tx, verb)(*arguments)
            for use in (
                lambda tx=tx: tx.transaction(),
                lambda tx=tx: tx.session(),
                lambda tx=tx: tx.connection,
                lambda tx=tx: tx.on_commit(print),
                lambda tx=tx: tx.on_rollback(print),
            ):
                with pytest.raises(ClosedError):
                    use()
            with pytest.raises(ClosedError), tx.bind():
                pass
        assert outer.outcome == "active"
    with pytest.raises(UsageError):
        async with committed:
            pass
    assert await ids(stock) == [1]


async def test_a_transaction_that_was_not_entered_says_how(stock: Any) -> None:
    """Using transaction() without ``with`` raises UsageError, not an AttributeError of ours."""
    tx = stock.transaction()
    with pytest.raises(UsageError):
        await tx.execute(INSERT_STOCK, row(1))
    with pytest.raises(UsageError):
        tx.transaction()
    assert await ids(stock) == []
    assert stock.stats().pool.checked_out == 0


async def test_ending_out_of_order_is_refused_and_nothing_is_committed(stock: Any) -> None:
    """The outer block ends before the inner one: everything is rolled back and the error says so."""
    outer = stock.transaction()
    await outer.__aenter__()
    inner = stock.transaction()
    await inner.__aenter__()
    await stock.execute(INSERT_STOCK, row(1))
    with pytest.raises(UsageError, match="nested one was still open"):
        await outer.__aexit__(None, None, None)
    assert outer.outcome == inner.outcome == "not committed"
    with pytest.raises(ClosedError):
        await inner.__aexit__(None, None, None)
    assert await ids(stock) == []
    assert stock.stats().pool.checked_out == 0


async def test_siblings_ending_out_of_order_are_refused(stock: Any) -> None:
    """A nested block that isn't the innermost can't end; the one that is still can."""
    async with stock.transaction():
        first, second = stock.transaction(), stock.transaction()
        await first.__aenter__()
        await second.__aenter__()
        await stock.execute(INSERT_STOCK, row(1))
        with pytest.raises(UsageError, match="reverse order"):
            await first.__aexit__(None, None, None)
        await second.__aexit__(None, None, None)
        await first.__aexit__(None, None, None)
    assert await ids(stock) == [1]


# --- what the databases do behind one's back ------------------------------------------------------


async def test_ddl_is_refused_where_it_would_commit(stock: Any, backend: Backend) -> None:
    """MariaDB commits at every DDL, so it is refused unsent; PostgreSQL and SQLite roll it back with the rest."""
    ddl: list[Any] = ["create table made (id integer)", sa.schema.CreateTable(sa.Table("made2", sa.MetaData()))]
    if backend.name != "mariadb":
        with pytest.raises(Stop):
            async with stock.transaction() as tx:
                await tx.execute(INSERT_STOCK, row(1))
                await tx.execute("create table made (id integer)")
                await tx.execute("drop table stock")
                raise Stop
        assert await ids(stock) == []
        await stock.execute("create table made (id integer)")
        return
    ddl += ["ALTER TABLE stock ADD x int", "truncate table stock", "lock tables stock write", "drop table stock"]
    ddl += ["/* quietly */ rename table stock to gone", "analyze table stock", "/*! create table made (id int) */"]
    ddl += ["set statement max_statement_time=1 for create table made (id int)"]
    for statement in ddl:
        with pytest.raises(StatementRefusedError, match="DDL"):
            async with stock.transaction() as tx:
                await tx.execute(INSERT_STOCK, row(1))
                await tx.execute(statement)
        assert await ids(stock) == []
    async with stock.transaction() as tx:
        await tx.execute("create temporary table made (id integer)")  # commits nothing
        await tx.execute("drop temporary table made")


async def test_a_session_inside_a_transaction_cannot_commit_it_by_ddl(stock: Any, backend: Backend) -> None:
    """On MariaDB, DDL and COMMIT as text are refused on a joined session and on tx.connection as well."""
    if backend.name != "mariadb":
        pytest.skip("only MariaDB commits at DDL")
    for statement in ("create table made (id int)", "commit", "set autocommit = 1"):
        with pytest.raises(StatementRefusedError):
            async with stock.transaction() as tx, tx.session() as session:
                await session.execute(text(INSERT_STOCK), row(1))
                await session.execute(text(statement))
        assert await ids(stock) == []


async def test_a_swallowed_error_is_not_committed_in_silence(stock: Any, backend: Backend) -> None:
    """On PostgreSQL a swallowed error turns COMMIT into ROLLBACK: we say so. Elsewhere the rest is committed."""
    tx = stock.transaction()

    async def body() -> None:
        async with tx:
            await tx.execute(INSERT_STOCK, row(1))
            with pytest.raises(UniqueViolationError):
                await tx.execute(INSERT_STOCK, row(1))

    if backend.name != "postgresql":
        await body()
        assert await ids(stock) == [1]
        return
    with pytest.raises(TransactionAbortedError):
        await body()
    assert tx.outcome == "not committed"
    assert await ids(stock) == []
    assert stock.stats().pool.checked_out == 0


async def test_a_swallowed_lock_timeout_is_never_half_a_transaction(
    make_db: Callable[..., Any], backend: Backend
) -> None:
    """MariaDB undoes only the statement that waited in vain; whoever swallows that gets an error, not half the work."""
    if backend.name == "sqlite":
        pytest.skip("SQLite's writers wait at BEGIN")
    holder, db = make_db(), make_db(lock_timeout_seconds=1)
    await holder.execute(CREATE_STOCK)
    await holder.execute_many(INSERT_STOCK, [row(1), row(2)])
    async with holder.transaction() as lock:
        await lock.execute("update stock set quantity = 100 where id = 2")
        tx = db.transaction()

        async def body() -> None:
            async with tx:
                await tx.execute("update stock set quantity = 100 where id = 1")
                with pytest.raises(LockTimeoutError):
                    await tx.execute("update stock set quantity = 200 where id = 2")

        with pytest.raises(TransactionAbortedError):
            await body()
        assert tx.outcome == "not committed"
    assert await db.fetch_value("select quantity from stock where id = 1") == 1


# --- SQLAlchemy's own ----------------------------------------------------------------------------


async def test_a_session_works_by_itself(stock: Any) -> None:
    """Outside transaction() a session is SQLAlchemy's: it begins by itself, commits when told, else rolls back."""
    async with stock.session() as session:
        session.add(Stock(id=1, quantity=1))
        await session.commit()
        session.add(Stock(id=2, quantity=2))
        await session.flush()
    assert await ids(stock) == [1]
    async with stock.session() as session:
        found = await session.get(Stock, 1)
        assert found.quantity == 1
        found.quantity = 7
        await session.commit()
    assert await stock.fetch_value("select quantity from stock") == 7


async def test_a_session_inside_a_transaction_joins_it(stock: Any) -> None:
    """Inside transaction() a session works in a savepoint: it undoes only its own work and commits with us."""
    with pytest.raises(Stop):
        async with stock.transaction() as tx:
            await tx.execute(INSERT_STOCK, row(1))
            async with stock.session() as session:
                session.add(Stock(id=2, quantity=2))
                await session.commit()
            assert await ids(stock) == [1, 2]
            raise Stop
    assert await ids(stock) == []
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(1))
        async with tx.session() as session:
            session.add(Stock(id=2, quantity=2))
            await session.flush()
            await session.rollback()
            session.add(Stock(id=3, quantity=3))
            await session.commit()
        async with stock.session() as session:
            session.add(Stock(id=4, quantity=4))
            await session.flush()
        assert stock.stats().pool.checked_out == 1
    assert await ids(stock) == [1, 3]


async def test_the_engine_inside_a_transaction_is_refused(stock: Any) -> None:
    """db.engine would open a second connection beside the transaction; inside it raises and names the way."""
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(1))
        with pytest.raises(UsageError, match=r"session\(\) or tx.connection"):
            stock.engine  # noqa: B018 - reading it is the use
    assert await ids(stock) == [1]
    assert stock.engine is not None


async def test_the_orm_begins_by_itself_on_sqlite(stock: Any, backend: Backend, make_db: Callable[..., Any]) -> None:
    """A session that only reads does not keep writers out: its BEGIN is deferred."""
    if backend.name != "sqlite":
        pytest.skip("SQLite's BEGIN comes in kinds")
    other = make_db(lock_timeout_seconds=0.05)
    async with stock.session() as session:
        assert await session.get(Stock, 1) is None
        await other.execute(INSERT_STOCK, row(1))
    assert await ids(stock) == [1]


@pytest.mark.parametrize("level", ["SERIALIZABLE", "READ UNCOMMITTED", "AUTOCOMMIT"])
async def test_an_isolation_level_used_once_changes_nothing_later(
    make_db: Callable[..., Any], backend: Backend, level: str
) -> None:
    """An engine connection with isolation_level leaves nothing behind: the next one-shot on it is committed."""
    db, other = make_db(pool_size=1, max_overflow=0), make_db()
    await db.execute(CREATE_STOCK)
    await on_engine(db, lambda connection: connection.execute(text(COUNT_STOCK)).scalar_one(), isolation_level=level)
    await db.execute(INSERT_STOCK, row(1))
    assert await ids(other) == [1]
    with pytest.raises(Stop):
        async with db.transaction() as tx:
            await tx.execute(INSERT_STOCK, row(2))
            raise Stop
    assert await ids(other) == [1]
    async with db.transaction() as tx:
        assert await ids(tx) == [1]
        if backend.name == "postgresql":
            assert await tx.fetch_value("show transaction_isolation") == "read committed"
        elif backend.name == "mariadb":
            assert not is_locked(backend)


async def test_the_autocommit_option_commits_each_statement(stock: Any, make_db: Callable[..., Any]) -> None:
    """isolation_level="AUTOCOMMIT" on an engine connection means what it means in SQLAlchemy."""
    other = make_db()

    def write(connection: sa.Connection) -> None:
        connection.execute(text(INSERT_STOCK), row(1))

    await on_engine(stock, write, isolation_level="AUTOCOMMIT")
    assert await ids(other) == [1]


async def test_a_level_given_to_an_engine_connection_is_in_force(stock: Any, backend: Backend) -> None:
    """execution_options(isolation_level=...) reaches BEGIN."""
    if backend.name == "sqlite":
        pytest.skip("every SQLite transaction is serializable")

    await stock.execute(INSERT_STOCK, row(1))

    def look(connection: sa.Connection) -> bool:
        connection.execute(text("select * from stock")).all()
        if backend.name == "mariadb":
            return is_locked(backend)
        return bool(connection.execute(text("show transaction_isolation")).scalar_one() == "serializable")

    assert await on_engine(stock, look, isolation_level="SERIALIZABLE")
    assert not await on_engine(stock, look, isolation_level="READ COMMITTED")


# What a statement may take, in the server's own word.
_LIMIT = {
    "postgresql": "select current_setting('statement_timeout')",
    "mariadb": "select @@max_statement_time",
}


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in _LIMIT], indirect=True
)
async def test_a_timeout_used_once_changes_nothing_later(make_db: Callable[..., Any], backend: Backend) -> None:
    """A short timeout of one call is not inherited by a session or engine that gets the same connection later."""
    db = make_db(pool_size=1, max_overflow=0, statement_timeout_seconds=21)
    limit = _LIMIT[backend.name]
    usual = await db.fetch_value(limit)
    assert await db.using(timeout=7).fetch_value(limit) != usual
    async with db.session() as session:
        assert (await session.execute(text(limit))).scalar_one() == usual
    async with db.transaction(timeout=8) as tx:
        assert await tx.fetch_value(limit) != usual
    assert await on_engine(db, lambda c: c.execute(text(limit)).scalar_one(), isolation_level="AUTOCOMMIT") == usual


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
async def test_a_timeout_used_once_changes_nothing_later_on_sqlite(make_db: Callable[..., Any]) -> None:
    db = make_db(pool_size=1, max_overflow=0, statement_timeout_seconds=21)
    dialect = getattr(db.engine, "sync_engine", db.engine).dialect

    def limit(connection: Any) -> Any:
        connection.execute(text("select 1"))
        return dialect._sqlite(connection.connection.dbapi_connection).timeout_seconds

    await db.using(timeout=7).fetch_value("select 1")

    def limit_of_a_session(engine: sa.Engine) -> Any:
        with orm.Session(engine) as session:
            return limit(session.connection())

    assert await on_sync_engine(db, limit_of_a_session) == 21
    await db.using(timeout=7).fetch_value("select 1")
    assert await on_engine(db, limit, isolation_level="AUTOCOMMIT") == 21


async def test_a_timeout_undone_with_a_savepoint_is_set_again(make_db: Callable[..., Any], backend: Backend) -> None:
    """Statement timeouts hold across savepoints that are rolled back, short and long ones."""
    from tests.twins.support import slow_read

    db = make_db(statement_timeout_seconds=3)
    async with db.transaction() as tx:
        with db.override(timeout=1):
            await tx.fetch_value("select 1")
        with pytest.raises(Stop):
            async with db.transaction():
                raise Stop
        if backend.name != "sqlite":
            longer = {"postgresql": "select 1 from pg_sleep(1.2)", "mariadb": "select sleep(1.2)"}[backend.name]
            assert await tx.fetch_value(longer) in (0, 1)
        with pytest.raises(DeadlineError):
            async with db.transaction():
                await tx.fetch_value(slow_read(backend))
        assert await tx.fetch_value("select 1") == 1


async def test_a_block_is_rolled_back_without_an_exception(stock: Any) -> None:
    """``tx.rollback()``: the block ends normally, nothing of it stays, and nothing runs again."""
    told: list[str] = []
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(1))
        tx.on_commit(lambda: told.append("committed"))
        tx.on_rollback(lambda: told.append("rolled back"))
        tx.rollback()
        await tx.execute(INSERT_STOCK, row(2))
    assert (tx.outcome, told) == ("not committed", ["rolled back"])
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(3))
        async with stock.transaction() as inner:
            await inner.execute(INSERT_STOCK, row(4))
            inner.rollback()
        assert inner.outcome == "not committed"
    assert tx.outcome == "committed"
    tries: list[int] = []

    async def body(tx: Any) -> str:
        tries.append(1)
        await tx.execute(INSERT_STOCK, row(5))
        tx.rollback()
        return "said"

    assert await stock.run_in_transaction(body) == "said"
    assert tries == [1]
    async for attempt in stock.attempts():
        async with attempt as tx:
            await tx.execute(INSERT_STOCK, row(6))
            tx.rollback()
    assert await ids(stock) == [3]


async def test_a_transaction_that_has_ended_is_not_rolled_back(stock: Any) -> None:
    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(1), last=True)
        with pytest.raises(ClosedError):
            tx.rollback()
    with pytest.raises(ClosedError):
        tx.rollback()
    assert await ids(stock) == [1]
