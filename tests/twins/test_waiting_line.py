"""Who waits for a connection of the pool gets it in turn, and nobody who came later overtakes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from prefiq_db.bridge import await_, spawn
from prefiq_db.errors import ConnectFailedError, PoolTimeoutError
from tests.twins.harness import Harness, drive

pytestmark = [
    pytest.mark.usefixtures("backend"),
    pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True),
]

WAITERS = 20


class Pool:
    """One pool of one connection, ours or SQLAlchemy's, taken from and given back to step by step."""

    def __init__(self, engine: Any, is_async: bool) -> None:
        self.pool = getattr(engine, "sync_engine", engine).pool
        self.is_async = is_async

    async def take(self) -> Any:
        return await spawn(self.pool.connect) if self.is_async else self.pool.connect()

    async def take_again(self, held: Any) -> Any:
        """Give *held* back and take another one at once, without letting anybody else run in between."""

        def work() -> Any:
            held.close()
            return self.pool.connect()

        return await spawn(work) if self.is_async else work()

    async def give(self, held: Any) -> None:
        await spawn(held.close) if self.is_async else held.close()


@pytest.fixture
def plain(world: str, loop_runner: asyncio.Runner) -> Iterator[Pool]:
    """SQLAlchemy's own pool, with one connection."""
    if world == "sync":
        engine = sa.create_engine("sqlite://", poolclass=sa.QueuePool, pool_size=1, max_overflow=0, pool_timeout=10,
                                  connect_args={"check_same_thread": False})  # fmt: skip
        yield Pool(engine, is_async=False)
        engine.dispose()
    else:
        other = create_async_engine("sqlite+aiosqlite://", poolclass=sa.AsyncAdaptedQueuePool, pool_size=1,
                                    max_overflow=0, pool_timeout=10)  # fmt: skip
        yield Pool(other, is_async=True)
        loop_runner.run(other.dispose())


@pytest.fixture
def ours(make_db: Callable[..., Any]) -> Pool:
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=10)
    return Pool(db.engine, db.is_async)


async def order_of_grants(pool: Pool, harness: Harness, waiting: Callable[[], int]) -> list[str]:
    """Return who got the connection, in order: twenty who came one by one, and a greedy one who came back at once."""
    order: list[str] = []
    held = await pool.take()
    come = [harness.event() for _ in range(WAITERS + 1)]

    def waiter(number: int) -> Callable[[], Awaitable[None]]:
        async def work() -> None:
            await come[number].wait()
            mine = await pool.take()
            order.append(f"waiter {number}")
            await pool.give(mine)

        return work

    async def greedy() -> None:
        nonlocal held
        for number in range(WAITERS):
            come[number].set()
            await harness.until(lambda number=number: _says(waiting() == number + 1))
        held = await pool.take_again(held)
        order.append("greedy")
        await pool.give(held)

    await harness.together(greedy, *map(waiter, range(WAITERS)))
    return order


async def _says(answer: bool) -> bool:
    return answer


async def test_waiters_are_served_in_order(ours: Pool, harness: Harness) -> None:
    """Twenty waiters come one after the other; the holder gives back, asks again at once, and is served last."""
    line = ours.pool._line
    order = await order_of_grants(ours, harness, lambda: len(line.waiters))
    assert order == [*(f"waiter {number}" for number in range(WAITERS)), "greedy"]
    assert not line.waiters
    assert ours.pool.checkedout() == 0


async def test_control_the_plain_pool_lets_the_greedy_overtake(plain: Pool, harness: Harness, world: str) -> None:
    """SQLAlchemy's own pool hands the connection to whoever asks first after it came back."""
    queue = plain.pool._pool

    def waiting() -> int:
        return len(queue._queue._getters) if world == "async" else len(queue.not_empty._waiters)

    order = await order_of_grants(plain, harness, waiting)
    assert order[0] == "greedy", "twenty were waiting"
    assert sorted(order) == sorted([*(f"waiter {number}" for number in range(WAITERS)), "greedy"])


async def test_many_waiters_share_a_small_pool(make_db: Callable[..., Any], harness: Harness) -> None:
    """Everybody is served, nobody twice at once, and the pool is whole afterwards."""
    db = make_db(pool_size=2, max_overflow=1, pool_timeout_seconds=15)
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            async with db.transaction(read_only=True) as tx:
                inside += 1
                most = max(most, inside)
                await tx.fetch_value("select 1")
                inside -= 1

    await harness.together(*[work] * WAITERS)
    assert most <= 3
    stats = db.stats().pool
    assert (stats.checked_out, stats.pending, stats.timeout_count) == (0, 0, 0)
    assert stats.idle == 2


async def test_a_waiter_in_vain_leaves_the_line(make_db: Callable[..., Any], harness: Harness) -> None:
    """It names the holders, its place is nobody's, and the next in line is served."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=10)
    held, late = harness.event(), harness.event()

    async def holder() -> None:
        async with db.transaction(read_only=True) as tx:
            held.set()
            await late.wait()
            await tx.fetch_value("select 3")

    async def impatient() -> str:
        await held.wait()
        with pytest.raises(PoolTimeoutError) as error:
            await db.using(timeout=0.5).fetch_value("select 1")
        late.set()
        return str(error.value)

    async def patient() -> int:
        await harness.until(lambda: _says(db.stats().pool.pending == 1))
        return int(await db.fetch_value("select 2"))

    _, message, answer = await harness.together(holder, impatient, patient)
    assert "who has them" in message
    assert "test_waiting_line.py" in message
    assert answer == 2
    assert db.stats().pool.checked_out == 0
    assert not getattr(db.engine, "sync_engine", db.engine).pool._line.waiters


async def test_a_failed_connect_lets_the_next_try(
    make_db: Callable[..., Any], harness: Harness, monkeypatch: pytest.MonkeyPatch, world: str
) -> None:
    """Whoever waits for the only slot is not left waiting when connecting failed: it may try itself, at once."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=15)
    pool = getattr(db.engine, "sync_engine", db.engine).pool
    real = pool._invoke_creator
    tries = []
    somebody_waits = harness.event()

    def create(record: Any) -> Any:
        tries.append(1)
        if len(tries) > 1:
            return real(record)
        (await_ if world == "async" else drive)(somebody_waits.wait())
        raise ConnectFailedError("the server is away")

    monkeypatch.setattr(pool, "_invoke_creator", create)

    async def first() -> None:
        with pytest.raises(ConnectFailedError):
            await db.ping()

    async def second() -> int:
        await harness.until(lambda: _says(bool(tries)))
        return int(await db.fetch_value("select 2"))

    async def onlooker() -> None:
        await harness.until(lambda: _says(bool(pool._line.waiters)))
        somebody_waits.set()

    _, answer, _ = await harness.together(first, second, onlooker)
    assert answer == 2
    assert len(tries) == 2
    assert db.stats().pool.timeout_count == 0


@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True)
async def test_a_cancelled_waiter_loses_no_connection(make_db: Callable[..., Any], harness: Harness) -> None:
    """Cancelled before, at and after the moment it was served: the connection is the next one's."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=10)
    pool = db.engine.sync_engine.pool
    for when in ("before", "at", "after"):
        held = await spawn(pool.connect)
        waiting = [asyncio.create_task(db.fetch_value("select 1")) for _ in range(2)]
        await harness.until(lambda: _says(len(pool._line.waiters) == 2))
        if when == "before":
            waiting[0].cancel()
        await spawn(held.close)
        if when == "at":
            waiting[0].cancel()  # served, and not awake yet
        elif when == "after":
            await asyncio.sleep(0)
            waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError), when
        assert results[1] == 1
        assert pool.checkedout() == 0
        assert not pool._line.waiters
