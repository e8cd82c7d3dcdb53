"""The harness that runs one test body in both worlds does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.twins.harness import (
    Harness,
    SyncDatabaseFacade,
    SyncScope,
    SyncTransactionFacade,
    drive,
)


class FakeDatabase:
    name = "main"

    def __init__(self) -> None:
        self.events: list[str] = []

    def execute(self, statement: str) -> str:
        self.events.append(statement)
        return f"did {statement}"

    @contextmanager
    def transaction(self) -> Iterator[str]:
        self.events.append("begin")
        try:
            yield "the transaction"
        except ZeroDivisionError:
            self.events.append("rollback")
            raise
        self.events.append("commit")

    def run_in_transaction(self, fn: Any, *args: Any) -> Any:
        return fn("the transaction", *args)

    def transactional(self, fn: Any) -> Any:
        return lambda *args: fn("the transaction", *args)

    def on_commit(self, fn: Any) -> None:
        fn()

    def attempts(self) -> Iterator[Any]:
        yield self.transaction()
        yield self.transaction()

    def brand_new(self) -> None:
        """A verb nobody taught the facade."""


def test_a_coroutine_that_never_waits_runs_without_a_loop() -> None:
    async def inner() -> int:
        return 1

    async def body() -> int:
        return await inner() + 1

    assert drive(body()) == 2
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_waiting_in_the_sync_world_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="nothing may wait"):
        drive(asyncio.sleep(0))


def test_an_error_leaves_the_coroutine() -> None:
    async def body() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        drive(body())


async def test_the_world_decides_whether_there_is_a_loop(world: str) -> None:
    if world == "async":
        assert asyncio.get_running_loop().is_running()
    else:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()


async def test_a_test_without_a_world_has_a_loop() -> None:
    await asyncio.sleep(0)


def test_verbs_become_coroutines() -> None:
    db = SyncDatabaseFacade(FakeDatabase())
    assert db.name == "main"
    assert drive(db.execute("insert")) == "did insert"


def test_a_verb_nobody_taught_the_facade_is_refused() -> None:
    with pytest.raises(AttributeError, match="doesn't know brand_new"):
        _ = SyncDatabaseFacade(FakeDatabase()).brand_new


def test_a_transaction_is_an_async_scope_that_sees_errors() -> None:
    database = FakeDatabase()
    db = SyncDatabaseFacade(database)

    async def body(divisor: int) -> None:
        async with db.transaction() as tx:
            assert tx == "the transaction"
            await db.execute(f"{1 / divisor:g}")

    drive(body(1))
    assert database.events == ["begin", "1", "commit"]
    with pytest.raises(ZeroDivisionError):
        drive(body(0))
    assert database.events[3:] == ["begin", "rollback"]


def test_async_bodies_are_driven_to_their_end() -> None:
    db = SyncDatabaseFacade(FakeDatabase())

    async def body(tx: str, amount: int) -> tuple[str, int]:
        return tx, amount

    async def waiting(tx: str) -> None:
        await asyncio.sleep(0)

    assert drive(db.run_in_transaction(body, 3)) == ("the transaction", 3)
    assert drive(db.transactional(body)(4)) == ("the transaction", 4)
    assert drive(db.transactional()(body)(5)) == ("the transaction", 5)
    with pytest.raises(RuntimeError, match="nothing may wait"):
        drive(db.run_in_transaction(waiting))


def test_an_async_callback_is_driven_too() -> None:
    called = []

    async def callback() -> None:
        called.append("commit")

    assert SyncTransactionFacade(FakeDatabase()).on_commit(callback) is callback
    assert called == ["commit"]


def test_attempts_are_async_scopes() -> None:
    async def body() -> list[str]:
        entered = []
        for attempt in SyncDatabaseFacade(FakeDatabase()).attempts():
            assert isinstance(attempt, SyncScope)
            async with attempt as tx:
                entered.append(tx)
        async for attempt in SyncDatabaseFacade(FakeDatabase()).attempts():
            async with attempt as tx:
                entered.append(tx)
        return entered

    assert drive(body()) == ["the transaction"] * 4


async def test_workers_run_at_the_same_time(harness: Harness) -> None:
    """Each waits for the other, so one after the other would never end."""
    here, there = harness.event(), harness.event()

    async def first() -> str:
        here.set()
        await there.wait()
        return "first"

    async def second() -> str:
        await here.wait()
        there.set()
        return "second"

    assert await harness.together(first, second) == ["first", "second"]


async def test_all_workers_end_before_an_error_is_raised(harness: Harness) -> None:
    failed = harness.event()
    ended = []

    async def fails() -> None:
        failed.set()
        raise ZeroDivisionError

    async def goes_on() -> None:
        await failed.wait()
        ended.append(True)

    with pytest.raises(ZeroDivisionError):
        await harness.together(fails, goes_on)
    assert ended
    results = await harness.together(fails, goes_on, return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1] is None


async def test_until_asks_again(harness: Harness) -> None:
    answers = iter([False, False, True])

    async def condition() -> bool:
        return next(answers)

    await harness.until(condition)
    assert list(answers) == []
