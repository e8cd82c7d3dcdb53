"""An AsyncDatabase belongs to one event loop at a time: elsewhere a typed error, never a hang or foreign rows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import AsyncDatabase
from prefiq_db.errors import EventLoopError
from tests.conftest import Backend

VERBS: dict[str, Callable[[AsyncDatabase], Awaitable[object]]] = {
    "fetch_value": lambda db: db.fetch_value("select 1"),
    "execute_many": lambda db: db.execute_many("delete from item where id = :id", [{"id": 1}]),
    "run_in_transaction": lambda db: db.run_in_transaction(lambda tx: tx.fetch_value("select 1")),
    "ping": lambda db: db.ping(),
    "open": lambda db: db.open(),
    "close": lambda db: db.close(),
}


async def ask(db: AsyncDatabase, first: int, count: int = 30) -> None:
    for number in range(first, first + count):
        assert await db.fetch_value("select :number", {"number": number}) == number


def test_closed_in_between_each_run_has_its_loop(backend: Backend) -> None:
    """asyncio.run() three times, close() at the end of each: no error, no warning, the right rows."""
    db = AsyncDatabase(backend.url, pool_size=2)

    async def main(first: int) -> None:
        async with db:
            await asyncio.gather(*(ask(db, first + number * 100) for number in range(3)))

    for number in range(3):
        asyncio.run(main(number * 1000))


def test_left_open_the_next_loop_is_refused(backend: Backend) -> None:
    """What was not closed in its own loop says so to every verb of another one, at once."""
    db = AsyncDatabase(backend.url, pool_size=2)
    with asyncio.Runner() as first:
        first.run(db.open())
        for name, verb in VERBS.items():

            async def elsewhere(verb: Callable[[AsyncDatabase], Awaitable[object]] = verb) -> None:
                async with asyncio.timeout(5):
                    await verb(db)

            with asyncio.Runner() as other, pytest.raises(EventLoopError, match="event loop"):
                other.run(elsewhere())
            assert db.stats().pool.checked_out == 0, name
        first.run(ask(db, 0))
        first.run(db.close())


def test_two_loops_in_two_threads_do_not_mix(backend: Backend) -> None:
    """While one loop works, the other's calls are refused; the first one's rows stay its own."""
    db = AsyncDatabase(backend.url, pool_size=2)
    opened, refused = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    async def owner() -> None:
        async with db:
            opened.set()
            while not refused.is_set():
                await asyncio.gather(ask(db, 0), ask(db, 1000))

    async def stranger() -> None:
        for _ in range(20):
            with pytest.raises(EventLoopError):
                await db.fetch_value("select 7")

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with asyncio.timeout(20):
                await main()

        try:
            asyncio.run(whole())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(main,), daemon=True) for main in (owner, stranger)]
    threads[0].start()
    assert opened.wait(20)
    threads[1].start()
    threads[1].join(30)
    refused.set()
    threads[0].join(30)
    assert not errors


@pytest.mark.sqlite
@getattr(pytest.mark, "async")
@pytest.mark.parametrize("asks_the_loop", [False, True], ids=["", "control"])
def test_a_connection_closed_without_waiting_tells_no_closed_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks_the_loop: bool
) -> None:
    """aiosqlite's own stop() tells the event loop when its thread has ended; the loop may be closed by then."""
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    released = threading.Event()
    with asyncio.Runner() as runner:
        db = AsyncDatabase(f"sqlite:///{tmp_path / 'a.db'}", pool_size=1, max_overflow=0)
        runner.run(db.fetch_value("select 1"))
        engine: Any = db.engine.sync_engine
        slot = engine.pool._idle()  # kept: without its holder it would be closed
        driver = slot.dbapi_connection._connection
        driver._tx.put_nowait((None, released.wait))  # the thread is busy for as long as the loop lives

        async def close() -> None:
            if asks_the_loop:
                driver.stop()
            else:
                engine.dialect.close_now(slot.dbapi_connection)

        runner.run(close())
    released.set()
    driver._thread.join(60)
    assert not driver._thread.is_alive()
    assert driver._connection is None
    assert bool(failed) is asks_the_loop
