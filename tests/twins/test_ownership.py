"""A transaction belongs to the task or thread that opened it: nobody who only inherited it writes beside or into it."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database
from prefiq_db.errors import (
    ClosedError,
    PrefiqDbError,
    TransactionBusyError,
    TransactionOwnershipError,
)
from tests.conftest import Backend
from tests.twins.harness import Harness, drive
from tests.twins.support import (
    CREATE_STOCK,
    INSERT_STOCK,
    in_thread_or_task,
    is_sleeping,
    session_id,
)


@pytest.fixture
def stock(db: Any, world: str, loop_runner: Any) -> Any:
    """The database with an empty table."""
    (loop_runner.run if world == "async" else drive)(db.execute(CREATE_STOCK))
    return db


@pytest.fixture
def async_stock(backend: Backend, loop_runner: asyncio.Runner) -> Iterator[AsyncDatabase]:
    """An AsyncDatabase with an empty table, for what only tasks can do."""
    db = AsyncDatabase(backend.url)
    loop_runner.run(db.execute(CREATE_STOCK))
    yield db
    loop_runner.run(db.close())


async def ids(db: Any) -> list[int]:
    return [row.id for row in await db.fetch_all("select id from stock order by id")]


def row(number: int) -> dict[str, int]:
    return {"id": number, "quantity": number}


# --- inherited -----------------------------------------------------------------------------------


async def test_a_worker_that_inherited_the_transaction_is_refused(stock: Any, world: str) -> None:
    """A task, or a thread with the context, started inside the block may not use db there; nothing is written."""

    async def write() -> None:
        await stock.execute(INSERT_STOCK, row(2))

    async def begin() -> None:
        async with stock.transaction():
            await stock.execute(INSERT_STOCK, row(3))

    async def repeat() -> None:
        await stock.run_in_transaction(lambda tx: tx.execute(INSERT_STOCK, row(4)))

    async def look() -> None:
        await stock.fetch_all("select * from stock")

    async def many() -> None:
        await stock.execute_many(INSERT_STOCK, [row(5)])

    async def engine() -> None:
        assert stock.engine

    async def session() -> None:
        assert stock.session()

    async with stock.transaction() as tx:
        await tx.execute(INSERT_STOCK, row(1))
        for work in (write, begin, repeat, look, many, engine, session):
            with pytest.raises(TransactionOwnershipError, match=r"tx.bind\(\).*asyncio.timeout\(\)"):
                await in_thread_or_task(world, work)
        assert stock.stats().pool.checked_out == 1
        await stock.execute(INSERT_STOCK, row(9))
    assert await ids(stock) == [1, 9]


@pytest.mark.parametrize("how", ["gather", "task_group"])
async def test_gather_inside_a_transaction_writes_nothing_outside(async_stock: AsyncDatabase, how: str) -> None:
    """asyncio.gather and TaskGroup make tasks: theirs are refused, so no statement slips out of the transaction."""
    db = async_stock

    async def write(number: int) -> None:
        await db.execute(INSERT_STOCK, row(number))

    async def body() -> None:
        async with db.transaction():
            await db.execute(INSERT_STOCK, row(1))
            if how == "gather":
                await asyncio.gather(write(2), write(3))
            else:
                async with asyncio.TaskGroup() as group:
                    group.create_task(write(2))
                    group.create_task(write(3))

    with pytest.raises((TransactionOwnershipError, BaseExceptionGroup)) as refused:
        await body()
    errors = refused.value.exceptions if isinstance(refused.value, BaseExceptionGroup) else [refused.value]
    assert {type(error) for error in errors} == {TransactionOwnershipError}
    assert await ids(db) == []


async def test_wait_for_before_3_12_is_another_task(async_stock: AsyncDatabase) -> None:
    """asyncio.wait_for ran its coroutine in a new task before Python 3.12: there the error names asyncio.timeout."""
    db = async_stock
    async with db.transaction():
        if sys.version_info < (3, 12):
            with pytest.raises(TransactionOwnershipError, match=r"instead of asyncio\.wait_for"):
                await asyncio.wait_for(db.execute(INSERT_STOCK, row(1)), 30)
        else:
            await asyncio.wait_for(db.execute(INSERT_STOCK, row(1)), 30)
        async with asyncio.timeout(30):
            await db.execute(INSERT_STOCK, row(2))
    assert await ids(db) == ([2] if sys.version_info < (3, 12) else [1, 2])


async def test_a_thread_of_asyncio_is_refused(backend: Backend) -> None:
    """asyncio.to_thread copies the context: a sync database inside its transaction is refused there."""
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)
        with db.transaction() as tx:
            with pytest.raises(TransactionOwnershipError):
                await asyncio.to_thread(db.execute, INSERT_STOCK, row(1))
            await asyncio.to_thread(tx.execute, INSERT_STOCK, row(2))  # by name it is allowed
        assert [found.id for found in db.fetch_all("select id from stock")] == [2]


async def test_tasks_of_one_loop_do_not_share_a_sync_transaction(backend: Backend) -> None:
    """A sync Database used from tasks of one loop tells the tasks apart, although they are one thread."""
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)

        async def write() -> None:
            db.execute(INSERT_STOCK, row(1))

        with db.transaction(), pytest.raises(TransactionOwnershipError):
            await asyncio.create_task(write())
        assert db.fetch_all("select id from stock") == []


async def test_a_child_that_outlives_the_transaction_may_work_again(stock: Any, world: str, harness: Harness) -> None:
    """Once the inherited transaction has ended, its child uses db like everybody else."""
    ended, refused = harness.event(), harness.event()
    results: list[Any] = []

    async def child() -> None:
        with pytest.raises(TransactionOwnershipError):
            await stock.execute(INSERT_STOCK, row(2))
        refused.set()
        await ended.wait()
        await stock.execute(INSERT_STOCK, row(3))
        async with stock.transaction() as own:
            await own.execute(INSERT_STOCK, row(4))
        results.append("done")

    if world == "async":
        async with stock.transaction() as tx:
            await tx.execute(INSERT_STOCK, row(1))
            task = asyncio.create_task(child())
            await refused.wait()
        ended.set()
        await task
    else:
        async with stock.transaction() as tx:
            await tx.execute(INSERT_STOCK, row(1))
            thread = threading.Thread(target=contextvars.copy_context().run, args=(drive, child()))
            thread.start()
            await refused.wait()
        ended.set()
        thread.join()
    assert results == ["done"]
    assert await ids(stock) == [1, 3, 4]


# --- handed over ---------------------------------------------------------------------------------


async def test_an_explicit_tx_serves_another_worker(stock: Any, world: str) -> None:
    """The verbs of tx work in another task or thread, one at a time; that is meant by name."""
    async with stock.transaction() as tx:

        async def write() -> None:
            await tx.execute(INSERT_STOCK, row(1))
            async with tx.transaction() as nested:
                await nested.execute(INSERT_STOCK, row(2))

        await in_thread_or_task(world, write)
        await stock.execute(INSERT_STOCK, row(3))
    assert await ids(stock) == [1, 2, 3]


async def test_bind_hands_the_ambient_transaction_over(stock: Any, world: str) -> None:
    """Under tx.bind() the verbs of db use the transaction in another worker, and only inside that block."""
    async with stock.transaction() as tx:

        async def write() -> None:
            with tx.bind():
                await stock.execute(INSERT_STOCK, row(1))
                async with stock.transaction():
                    await stock.execute(INSERT_STOCK, row(2))
            with pytest.raises(TransactionOwnershipError):
                await stock.execute(INSERT_STOCK, row(3))

        await in_thread_or_task(world, write)
    assert await ids(stock) == [1, 2]


async def test_bind_does_not_outlive_its_transaction(stock: Any, world: str, harness: Harness) -> None:
    """A worker still under tx.bind() when the transaction ends is refused: it would write outside."""
    bound, ended = harness.event(), harness.event()
    seen: list[type] = []

    transaction = stock.transaction()
    tx = await transaction.__aenter__()

    async def late() -> None:
        with tx.bind():
            await stock.execute(INSERT_STOCK, row(1))
            bound.set()
            await ended.wait()
            try:
                await stock.execute(INSERT_STOCK, row(2))
            except PrefiqDbError as error:
                seen.append(type(error))

    if world == "async":
        task = asyncio.create_task(late())
        await bound.wait()
        await transaction.__aexit__(None, None, None)
        ended.set()
        await task
    else:
        thread = threading.Thread(target=drive, args=(late(),))
        thread.start()
        await bound.wait()
        await transaction.__aexit__(None, None, None)
        ended.set()
        thread.join()
    assert seen == [ClosedError]
    assert await ids(stock) == [1]


# --- at the same moment --------------------------------------------------------------------------

_SLOW = {"postgresql": "select 1 from pg_sleep(0.3)", "mariadb": "select sleep(0.3)"}


async def test_two_workers_at_once_are_refused(stock: Any, harness: Harness, backend: Backend) -> None:
    """While one worker's statement runs on a tx, another's is refused unsent; the first one is not disturbed."""
    if backend.name == "sqlite":
        pytest.skip("SQLite can't be seen while a statement runs")
    async with stock.transaction() as tx:
        session = await session_id(tx, backend)

        async def slow() -> Any:
            return await tx.fetch_value(_SLOW[backend.name])

        async def second() -> None:
            async def running() -> bool:
                return await is_sleeping(backend, session)

            await harness.until(running)
            with pytest.raises(TransactionBusyError):
                await tx.execute(INSERT_STOCK, row(1))

        assert (await harness.together(slow, second))[0] in (0, 1)
        await tx.execute(INSERT_STOCK, row(2))
    assert await ids(stock) == [2]


@pytest.mark.parametrize("ending", ["commit", "error"])
async def test_a_transaction_that_ends_under_a_running_statement_commits_nothing(
    stock: Any, harness: Harness, backend: Backend, ending: str
) -> None:
    """Leaving the block while another worker's statement runs rolls back once that has ended."""
    if backend.name == "sqlite":
        pytest.skip("SQLite can't be seen while a statement runs")
    transaction = stock.transaction()
    tx = await transaction.__aenter__()
    await tx.execute(INSERT_STOCK, row(1))
    session = await session_id(tx, backend)

    async def slow() -> Any:
        return await tx.fetch_value(_SLOW[backend.name])

    async def owner() -> None:
        async def running() -> bool:
            return await is_sleeping(backend, session)

        await harness.until(running)
        error = ZeroDivisionError() if ending == "error" else None
        await transaction.__aexit__(type(error) if error else None, error, None)

    results = await harness.together(slow, owner, return_exceptions=True)
    assert results[0] in (0, 1)
    assert isinstance(results[1], type(None) if ending == "error" else (TransactionBusyError,))
    assert transaction.outcome == "not committed"
    assert stock.stats().pool.checked_out == 0
    for number in range(2, 12):  # on whichever connection
        await stock.execute(INSERT_STOCK, row(number))
    assert await ids(stock) == list(range(2, 12))


# --- left elsewhere ------------------------------------------------------------------------------


async def test_a_block_left_in_another_task_rolls_back_and_raises(async_stock: AsyncDatabase) -> None:
    """A generator entered in one task and left in another can't have kept its statements together: nothing stays."""
    db = async_stock

    @asynccontextmanager
    async def fixture() -> AsyncIterator[None]:
        async with db.transaction():
            yield

    manager = fixture()
    await asyncio.create_task(manager.__aenter__())
    assert await ids(db) == []  # the caller believes that this is inside; it is a one-shot
    with pytest.raises(TransactionOwnershipError, match="left in another context"):
        await asyncio.create_task(manager.__aexit__(None, None, None))
    assert db.stats().pool.checked_out == 0
    await db.execute(INSERT_STOCK, row(1))
    assert await ids(db) == [1]


async def test_a_block_left_in_another_task_is_committed_when_tx_was_used(async_stock: AsyncDatabase) -> None:
    """The same with statements through tx: they are in the transaction beyond doubt, and it is committed."""
    db = async_stock

    @asynccontextmanager
    async def fixture() -> AsyncIterator[Any]:
        async with db.transaction() as tx:
            yield tx

    manager = fixture()
    tx = await asyncio.create_task(manager.__aenter__())
    await tx.execute(INSERT_STOCK, row(1))
    await asyncio.create_task(manager.__aexit__(None, None, None))
    assert tx.outcome == "committed"
    assert await ids(db) == [1]


def test_a_block_left_in_another_context_rolls_back_and_raises(backend: Backend) -> None:
    """The same in the sync world: entered in one context, left in another, as fixtures and middleware do."""
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)

        @contextmanager
        def fixture() -> Iterator[None]:
            with db.transaction():
                yield

        manager = fixture()
        contextvars.copy_context().run(manager.__enter__)
        with pytest.raises(TransactionOwnershipError, match="left in another context"):
            manager.__exit__(None, None, None)
        assert db.stats().pool.checked_out == 0
        db.execute(INSERT_STOCK, row(2))
        assert [found.id for found in db.fetch_all("select id from stock")] == [2]


async def test_an_abandoned_generator_leaves_nothing_open(async_stock: AsyncDatabase) -> None:
    """An async generator that is closed in another task gives its connection back, rolled back."""
    db = async_stock

    async def rows() -> AsyncIterator[int]:
        async with db.transaction():
            await db.execute(INSERT_STOCK, row(1))
            yield 1

    generator = rows()
    assert await asyncio.create_task(_next(generator)) == 1
    await asyncio.create_task(generator.aclose())
    assert db.stats().pool.checked_out == 0
    assert await ids(db) == []


async def _next(generator: Any) -> Any:
    return await anext(generator)


# --- more than one -------------------------------------------------------------------------------


async def test_two_databases_transactions_do_not_mix(stock: Any, make_db: Callable[..., Any], backend: Backend) -> None:
    """Each database has its own ambient transaction; ending one, in any order, leaves the other as it is."""
    if backend.name == "sqlite":
        pytest.skip("two databases on one file are one writer")
    other = make_db(name="other")
    first, second = stock.transaction(), other.transaction()
    await first.__aenter__()
    await second.__aenter__()
    await stock.execute(INSERT_STOCK, row(1))
    await other.execute(INSERT_STOCK, row(2))
    assert await ids(stock) == [1]
    assert await ids(other) == [2]
    await first.__aexit__(None, None, None)
    assert await ids(stock) == [1]
    error = ZeroDivisionError()
    await other.execute(INSERT_STOCK, row(3))
    await second.__aexit__(type(error), error, None)
    assert await ids(other) == [1]


async def test_workers_have_transactions_of_their_own(stock: Any, harness: Harness, backend: Backend) -> None:
    """Transactions of workers that were started outside any don't know of each other."""
    if backend.name == "sqlite":
        pytest.skip("SQLite lets one writer in at a time")
    wrote = [harness.event(), harness.event()]
    looked = [harness.event(), harness.event()]

    def worker(number: int, fails: bool) -> Callable[[], Awaitable[None]]:
        mine, other = number - 1, 2 - number

        async def run() -> None:
            async with stock.transaction():
                await stock.execute(INSERT_STOCK, row(number))
                wrote[mine].set()
                await wrote[other].wait()
                assert await ids(stock) == [number]
                looked[mine].set()
                await looked[other].wait()
                if fails:
                    raise ZeroDivisionError

        return run

    results = await harness.together(worker(1, False), worker(2, True), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ZeroDivisionError]
    assert await ids(stock) == [1]
