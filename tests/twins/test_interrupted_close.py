"""close() and open() that are cancelled half-way: no slot is lost, and whatever comes next works."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import Application, AsyncDatabase
from prefiq_db.pool.slots import SlottedPool
from prefiq_db.providers import DatabaseProvider, SettingsProvider
from tests import through
from tests.cancelling import at_each_await
from tests.conftest import Backend

pytestmark = pytest.mark.parametrize(
    "world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True
)
SIZE = 3


async def _cancelled_at(coroutine: Any, number: int) -> bool:
    """Run *coroutine*, cancelled at its await with this number; return whether it came so far."""

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        await at_each_await(coroutine, lambda here: here == number and task.cancel())

    (result,) = await asyncio.gather(asyncio.ensure_future(run()), return_exceptions=True)
    if result is not None and not isinstance(result, asyncio.CancelledError):
        raise result
    return isinstance(result, asyncio.CancelledError)


async def _assert_whole(db: AsyncDatabase) -> None:
    """The pool fills, and hands out as many as it may have, at once."""
    await db.open()
    assert db.stats().pool.checked_out == 0
    assert db.stats().pool.idle == SIZE
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        gate = asyncio.Barrier(SIZE)

        async def hold() -> None:
            async with db.transaction(read_only=True) as tx:
                await tx.fetch_value("select 1")
                await gate.wait()

        for _ in range(SIZE):
            group.create_task(hold())
    assert db.stats().pool.checked_out == 0


def _make(backend: Backend) -> AsyncDatabase:
    return AsyncDatabase(backend.url, pool_size=SIZE, max_overflow=0, pool_timeout_seconds=10)


async def test_close_cancelled_at_each_await_loses_nothing(backend: Backend, world: str) -> None:
    """The shutdown's time limit: every connection is closed all the same, and open() afterwards fills the pool."""
    db = _make(backend)
    cancelled = 0
    for number in range(1, 100):
        await _assert_whole(db)
        old = db.engine.sync_engine.pool
        came = await _cancelled_at(db.close(), number)
        assert old.checkedin() == 0, "an idle connection was left open"
        assert old.checkedout() == 0
        if not came:
            break
        cancelled += 1
        await db.close()
    assert cancelled, "close() must have waited at least once"
    await _assert_whole(db)
    await db.close()


async def test_open_cancelled_at_each_await_loses_nothing(backend: Backend, world: str) -> None:
    """A time limit on the start: what was opened so far is back, and the next open() fills the pool."""
    for number in (1, 2, 3, 5, 8, 13, 21, 34):
        db = _make(backend)
        came = await _cancelled_at(db.open(), number)
        assert db.stats().pool.checked_out == 0
        await _assert_whole(db)
        await db.close()
        if not came:
            break


async def test_control_a_pool_that_counts_up_and_down_loses_slots(
    backend: Backend, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy's own way to dispose of a pool, unshielded, leaves connections open: the look above finds it."""
    if backend.name == "postgresql":
        pytest.skip("psycopg closes without waiting, so nothing can be cancelled there")
    db = _make(backend)
    await _assert_whole(db)
    pool = db.engine.sync_engine.pool

    def dispose(self: SlottedPool) -> None:
        while (slot := self._idle()) is not None:
            self._drop_surplus(slot)

    monkeypatch.setattr(SlottedPool, "dispose", dispose)
    monkeypatch.setattr(type(db._core.runtime), "shielded", lambda self, function, budget: function())
    left = []
    for number in range(1, 20):
        if not await _cancelled_at(db.close(), number):
            break
        left.append(pool.checkedin())
        await db.open()
        pool = db.engine.sync_engine.pool
    monkeypatch.undo()
    await db.open()
    await db.close()
    assert any(left)


async def test_a_shutdown_that_is_cancelled_closes_every_database(backend: Backend, world: str, tmp_path: Path) -> None:
    """ashutdown() of two databases, cancelled in the first: both are closed, and the cancellation goes on."""
    app = Application()
    database = {"url": backend.url, "mode": "async", "pgbouncer": through.IS_ON and backend.name == "postgresql"}
    app.register(
        SettingsProvider(
            arguments={"databases": {"main": database, "other": database}},
            environ={},
            directory=tmp_path,
        )
    )
    app.register(DatabaseProvider)
    await app.boot_async()
    databases = [app.resolve("db"), app.resolve("db.other")]
    assert await _cancelled_at(app.ashutdown(), 1)
    for database in databases:
        assert database.engine.sync_engine.pool.checkedin() == 0
        assert database._core.instance.closed
