"""A cancelled task gives its connection back and leaves nothing half-written, wherever the cancellation hits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

from prefiq_db.transaction import Outcome
from tests.cancelling import at_each_await
from tests.conftest import Backend
from tests.twins.harness import Harness
from tests.twins.support import let_the_picture_grow_old

pytestmark = pytest.mark.parametrize(
    "world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True
)

# More than any of these bodies suspends; a run that is never cancelled ends the loop earlier.
_MOST_AWAITS = 400


async def _cancel_everywhere(
    body: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[bool], Awaitable[None]]
) -> int:
    """Run *body* cancelled at its first await, at its second, and so on until it is through; return how many."""
    for number in range(1, _MOST_AWAITS):

        async def run(number: int = number) -> Any:
            task = asyncio.current_task()
            assert task is not None
            cancel = task.cancel
            return await at_each_await(body(), lambda here: here == number and cancel())

        task = asyncio.ensure_future(run())
        (result,) = await asyncio.gather(task, return_exceptions=True)
        cancelled = isinstance(result, asyncio.CancelledError)
        if isinstance(result, BaseException) and not cancelled:
            raise result
        await check(cancelled)
        if not cancelled and not task.cancelling():
            return number - 1
    raise AssertionError(f"the body suspended more than {_MOST_AWAITS} times")


async def _make_accounts(db: Any) -> None:
    await db.execute("create table account (id integer primary key, balance integer not null)")
    await db.execute_many(
        "insert into account (id, balance) values (:id, :balance)",
        [{"id": 1, "balance": 1000}, {"id": 2, "balance": 0}],
    )


_OPEN_TRANSACTIONS = {
    "postgresql": "select count(*) from pg_stat_activity where datname = current_database() and xact_start is not null"
    " and pid <> pg_backend_pid()",
    "mariadb": "select count(*) from information_schema.innodb_trx t join information_schema.processlist p"
    " on p.id = t.trx_mysql_thread_id where p.db = database() and p.id <> connection_id()",
}


async def _assert_no_open_transaction(db: Any, backend: Backend, harness: Harness) -> None:
    if backend.name == "sqlite":
        # A transaction left open would hold the write lock.
        await db.execute("update account set balance = balance where id = 1")
        return

    async def none_open() -> bool:
        let_the_picture_grow_old(backend.name)
        return int(await db.fetch_value(_OPEN_TRANSACTIONS[backend.name])) == 0

    await harness.until(none_open)


async def test_cancellation_at_every_await_of_a_transaction(make_db: Any, backend: Backend, harness: Harness) -> None:
    """Both updates or none, the reported outcome is the true one, and the connection is back, at each of the awaits."""
    db = make_db(pool_size=1, max_overflow=1, lock_timeout_seconds=5)
    await _make_accounts(db)
    reported: list[Any] = []

    async def transfer() -> None:
        tx = db.transaction()
        reported.append(tx)
        async with tx:
            await tx.execute("update account set balance = balance - 1 where id = 1")
            await asyncio.sleep(0)
            await tx.execute("update account set balance = balance + 1 where id = 2")

    moved = 0

    async def check(cancelled: bool) -> None:
        nonlocal moved
        assert db.stats().pool.checked_out == 0
        await _assert_no_open_transaction(db, backend, harness)
        first = await db.fetch_value("select balance from account where id = 1")
        second = await db.fetch_value("select balance from account where id = 2")
        committed = reported[-1].outcome is Outcome.COMMITTED
        assert reported[-1].outcome in (Outcome.COMMITTED, Outcome.NOT_COMMITTED)
        moved += committed
        assert (first, second) == (1000 - moved, moved)
        assert committed or cancelled

    awaits = await _cancel_everywhere(transfer, check)
    assert awaits >= 4, "the body must have waited for BEGIN, two updates and COMMIT at least"


async def test_cancellation_at_every_await_of_a_one_shot(make_db: Any, backend: Backend, harness: Harness) -> None:
    """A cancelled read gives the connection back, or closes it; the next reader never gets another one's rows."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=5)
    await _make_accounts(db)

    async def read() -> None:
        assert await db.fetch_value("select balance from account where id = :id", {"id": 1}) == 1000

    async def check(cancelled: bool) -> None:
        assert db.stats().pool.checked_out == 0
        assert await db.fetch_value("select balance from account where id = :id", {"id": 2}) == 0

    assert await _cancel_everywhere(read, check) >= 1


async def test_the_very_same_cancellation_goes_on_and_tells_the_outcome(
    make_db: Any, backend: Backend, harness: Harness
) -> None:
    """A task cancelled while COMMIT is under way commits, is cancelled all the same, and the error says so."""
    db = make_db(pool_size=1)
    await _make_accounts(db)
    task = asyncio.current_task()
    assert task is not None

    with pytest.raises(asyncio.CancelledError) as caught:
        async with db.transaction() as tx:
            await tx.execute("update account set balance = 7 where id = 1")
            # It arrives at the next await of this task, and that is the wait for COMMIT.
            task.cancel("stop")
    task.uncancel()
    assert caught.value.args == ("stop",)
    assert caught.value.transaction_outcome is Outcome.COMMITTED  # type: ignore[attr-defined]  # set by the block
    assert tx.outcome is Outcome.COMMITTED
    assert await db.fetch_value("select balance from account where id = 1") == 7


async def test_a_timeout_around_a_transaction_is_a_timeout(make_db: Any, backend: Backend, harness: Harness) -> None:
    """asyncio.timeout() that expires inside rolls back and raises TimeoutError, as it would without a database."""
    db = make_db(pool_size=1)
    await _make_accounts(db)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, db.transaction() as tx:
            await tx.execute("update account set balance = 7 where id = 1")
            limit.reschedule(asyncio.get_running_loop().time() + 0.02)
            await asyncio.Event().wait()
    assert tx.outcome is Outcome.NOT_COMMITTED
    assert db.stats().pool.checked_out == 0
    assert await db.fetch_value("select balance from account where id = 1") == 1000


async def test_an_anyio_scope_around_a_transaction_does_not_spin(
    make_db: Any, backend: Backend, harness: Harness
) -> None:
    """anyio cancels again at every await; a transaction under its scope ends once and gives back its connection."""
    db = make_db(pool_size=1)
    await _make_accounts(db)
    with anyio.CancelScope() as scope:
        async with db.transaction() as tx:
            await tx.execute("update account set balance = 7 where id = 1")
            scope.deadline = anyio.current_time() + 0.02
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert tx.outcome is Outcome.NOT_COMMITTED
    with anyio.CancelScope() as scope:
        async with db.transaction() as tx:
            await tx.execute("update account set balance = 8 where id = 1")
            scope.cancel()
    assert tx.outcome is Outcome.COMMITTED
    assert db.stats().pool.checked_out == 0
    assert await db.fetch_value("select balance from account where id = 1") == 8
    await _assert_no_open_transaction(db, backend, harness)
