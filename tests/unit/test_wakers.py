"""A task that waits for a waker goes on at once, and is cancelled as at a future."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from prefiq_db.drivers.wakers import Waker

_var: contextvars.ContextVar[str] = contextvars.ContextVar("_var", default="no")


def test_the_task_goes_on_in_the_callback_that_wakes_it() -> None:
    order: list[str] = []

    async def waits(waker: Waker) -> None:
        _var.set("the task's")
        order.append(f"got {await waker}, in {_var.get()} context")

    def wakes(waker: Waker) -> None:
        order.append("before")
        waker.wake("it")
        order.append("after")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waker = Waker(loop)
        task = asyncio.create_task(waits(waker))
        await asyncio.sleep(0)
        loop.call_soon(wakes, waker)
        await task

    asyncio.run(main())
    assert order == ["before", "got it, in the task's context", "after"]


def test_what_came_before_the_wait_is_there() -> None:
    async def main() -> list[Any]:
        woken, told = Waker(asyncio.get_running_loop()), Waker(asyncio.get_running_loop())
        woken.wake(1)
        told.set_result(2)
        return [await woken, await told, woken.done(), woken.cancelled()]

    assert asyncio.run(main()) == [1, 2, True, False]


def test_a_result_that_is_set_comes_in_the_next_turn() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        waker = Waker(loop)
        loop.call_soon(waker.set_result, 3)
        return await waker

    assert asyncio.run(main()) == 3


@pytest.mark.parametrize("is_late", [False, True])
def test_a_cancelled_wait_is_not_woken(is_late: bool) -> None:
    async def main() -> tuple[Any, ...]:
        loop = asyncio.get_running_loop()
        waker = Waker(loop)

        async def waits() -> None:
            await waker

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel("why")
        if is_late:  # before the task has heard of its cancellation
            loop.call_soon(waker.wake, 1)
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        waker.wake(2)
        return waker.cancelled(), waker.cancel()

    assert asyncio.run(main()) == (True, False)


def test_a_task_that_was_woken_is_cancelled_at_its_next_wait() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        first, second = Waker(loop), Waker(loop)

        async def waits() -> None:
            seen.append(await first)
            await second

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        loop.call_soon(first.wake, "first")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert asyncio.run(main()) == ["first"]


def test_it_has_no_result_before() -> None:
    async def main() -> None:
        with pytest.raises(asyncio.InvalidStateError):
            Waker(asyncio.get_running_loop()).result()

    asyncio.run(main())
