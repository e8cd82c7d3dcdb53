"""A greenlet that is kept is to its next function as a new one would be, and keeps nothing of the last one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from typing import Any

import greenlet
import pytest

from prefiq_db import greenlets
from prefiq_db.bridge import await_, can_await, spawn


def test_one_greenlet_serves_call_after_call() -> None:
    async def main() -> set[int]:
        return {await spawn(lambda: id(greenlet.getcurrent())) for _ in range(5)}

    assert len(asyncio.run(main())) == 1


def test_calls_at_the_same_time_have_their_own() -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(spawn(_waits, number) for number in range(300)))

    assert asyncio.run(main()) == list(range(300))
    assert len(greenlets._here.idle) <= greenlets._MOST_KEPT


def _waits(number: int) -> int:
    for _ in range(3):
        await_(asyncio.sleep(0))
    return number


def test_it_may_await_what_it_likes_and_not_outside() -> None:
    assert asyncio.run(spawn(can_await))
    assert not can_await()


class _Thing:
    """What somebody may wait for to be gone."""


_var: contextvars.ContextVar[Any] = contextvars.ContextVar("_var", default=None)


def test_an_idle_one_keeps_nothing_alive() -> None:
    refs: list[weakref.ref[_Thing]] = []

    async def main() -> None:
        given, returned, in_context = _Thing(), _Thing(), _Thing()
        refs.extend(map(weakref.ref, (given, returned, in_context)))
        _var.set(in_context)
        assert await spawn(lambda _, result: result, given, returned) is returned

    asyncio.run(main())
    assert [ref() for ref in refs] == [None, None, None]


def test_each_function_has_its_callers_context() -> None:
    async def one(number: int) -> tuple[int, int]:
        _var.set(number)
        seen = await spawn(lambda: (await_(asyncio.sleep(0)), _var.get(), _var.set(number + 100))[1])
        return seen, _var.get()

    async def main() -> Any:
        await spawn(lambda: None)
        return [await asyncio.create_task(one(number)) for number in range(4)], await spawn(_var.get)

    assert asyncio.run(main()) == ([(number, number + 100) for number in range(4)], None)


def test_an_error_comes_out_as_it_was_raised() -> None:
    error = ValueError("its own")

    def fails() -> None:
        raise error

    async def main() -> None:
        await spawn(lambda: None)
        try:
            raise KeyError("another one, which is being handled")
        except KeyError:
            with pytest.raises(ValueError, match="its own"):
                await spawn(fails)
        assert await spawn(lambda: "goes on") == "goes on"

    asyncio.run(main())
    assert (error.__context__, error.__cause__) == (None, None)


def test_what_is_awaited_may_fail_and_be_caught() -> None:
    async def fails() -> None:
        raise OSError("lost")

    def catches() -> str:
        try:
            await_(fails())
        except OSError as error:
            return str(error)
        return "nothing"

    assert asyncio.run(spawn(catches)) == "lost"


def test_a_cancelled_one_is_not_kept() -> None:
    async def main() -> int:
        task = asyncio.create_task(spawn(lambda: await_(asyncio.sleep(60))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(greenlets._here.idle)

    before = len(greenlets._here.idle)
    assert asyncio.run(main()) <= before


def test_a_closed_coroutine_ends_its_function() -> None:
    seen: list[str] = []

    def waits() -> None:
        try:
            await_(asyncio.sleep(60))
        finally:
            seen.append("ended")

    async def main() -> None:
        coroutine = spawn(waits)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert seen == ["ended"]


def test_a_thread_that_ends_takes_its_greenlets_with_it() -> None:
    async def main() -> None:
        await asyncio.gather(*(spawn(_waits, number) for number in range(20)))

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(each), greenlet.greenlet) for each in gc.get_objects())  # some are dead weak proxies

    before = count()
    for _ in range(5):
        thread = threading.Thread(target=lambda: asyncio.run(main()))
        thread.start()
        thread.join()
    assert count() < before + 20  # each thread had as many


def test_one_that_began_deep_in_the_stack_leaves_the_next_function_its_room() -> None:
    async def deep(levels: int) -> Any:
        return await deep(levels - 1) if levels else await spawn(lambda: None)

    def recurses(levels: int) -> int:
        return recurses(levels - 1) + 1 if levels else 0

    async def main() -> int:
        limit = sys.getrecursionlimit()
        await deep(limit * 7 // 10)
        return await spawn(recurses, limit * 6 // 10)

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(main())))  # which has none yet
    thread.start()
    thread.join()
    assert found == [sys.getrecursionlimit() * 6 // 10]


def test_what_began_in_a_greenlet_goes_on_outside_of_it() -> None:
    """As a task does that ``asyncio.eager_task_factory`` begins in a listener."""

    async def main() -> tuple[Any, list[Any]]:
        begun: list[Any] = []

        def begins() -> None:
            begun.append(spawn(_waits, 7))
            begun[0].send(None)

        await spawn(begins)
        try:
            while True:
                begun[0].send(None)
        except StopIteration as end:
            return end.value, [await spawn(_waits, number) for number in range(3)]

    assert asyncio.run(main()) == (7, [0, 1, 2])
