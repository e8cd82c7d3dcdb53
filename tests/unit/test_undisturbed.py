"""A coroutine that is driven in the running task ends as if nobody had cancelled the task; then the task is told."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from prefiq_db.bridge import AsyncRuntime, await_, spawn
from prefiq_db.undisturbed import Undisturbed


async def _turns(ends: list[str], result: Any = "done") -> Any:
    """Wait in each way that a driver does, and note the end."""
    loop = asyncio.get_running_loop()
    for _ in range(3):
        await asyncio.sleep(0)
        waiter = loop.create_future()
        loop.call_later(0.001, waiter.set_result, None)
        await waiter
        await asyncio.create_task(asyncio.sleep(0))
    ends.append("ended")
    if isinstance(result, Exception):
        raise result
    return result


def test_it_returns_what_the_coroutine_returns() -> None:
    assert asyncio.run(_awaited(_turns([]))) == "done"


async def _awaited(coroutine: Any, seconds: float = 10.0) -> Any:
    return await Undisturbed(coroutine, seconds)


def test_an_error_of_what_it_waits_for_reaches_the_coroutine() -> None:
    async def caught() -> str:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(waiter.set_exception, OSError("lost"))
        try:
            await waiter
        except OSError as error:
            return str(error)
        return "nothing"

    assert asyncio.run(_awaited(caught())) == "lost"


@pytest.mark.parametrize("turns", range(1, 9))
@pytest.mark.parametrize("result", ["done", ValueError("its own")])
def test_a_cancellation_at_any_turn_comes_when_it_has_ended(turns: int, result: Any) -> None:
    ends: list[str] = []

    async def main() -> Any:
        task = asyncio.create_task(_awaited(_turns(ends, result)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel("why")
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel("again")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value.args

    args = asyncio.run(main())
    assert ends == ["ended"]
    assert args == ("why",)


def test_asyncios_timeout_is_told_as_ever() -> None:
    ends: list[str] = []

    async def main() -> None:
        async with asyncio.timeout(0.0005):
            await Undisturbed(_turns(ends), 10.0)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert ends == ["ended"]


def test_anyios_scope_is_told_as_ever() -> None:
    ends: list[str] = []

    async def main() -> bool:
        with anyio.move_on_after(0.0005) as scope:
            await spawn(lambda: AsyncRuntime().undisturbed(lambda: await_(_turns(ends)), 10.0))
            await asyncio.sleep(60)  # the first wait behind the shield is cancelled
        return scope.cancelled_caught

    assert asyncio.run(main())
    assert ends == ["ended"]


def test_what_takes_too_long_is_cancelled() -> None:
    seen: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(TimeoutError, match=r"not done within 0\.01 s"):
        asyncio.run(_awaited(endless(), 0.01))
    assert seen == ["cancelled"]


def test_what_takes_too_long_at_every_turn_is_cancelled_where_it_waits() -> None:
    async def turning() -> None:
        ends_at = asyncio.get_running_loop().time() + 0.01
        while asyncio.get_running_loop().time() < ends_at:  # noqa: ASYNC110 - it is what is tested
            await asyncio.sleep(0)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError, match="not done within"):
        asyncio.run(_awaited(turning(), 0.001))


def test_what_ends_itself_when_it_takes_too_long_is_heard() -> None:
    async def patient() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "its own end"
        return "nothing"

    assert asyncio.run(_awaited(patient(), 0.01)) == "its own end"


def test_it_is_closed_with_its_caller() -> None:
    seen: list[str] = []

    async def waiting() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("closed")

    async def main() -> None:
        coroutine = _awaited(waiting())
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert seen == ["closed"]


def test_a_greenlet_runs_in_the_callers_task() -> None:
    async def main() -> bool:
        runtime, task = AsyncRuntime(), asyncio.current_task()
        return await spawn(lambda: runtime.undisturbed(lambda: runtime.worker() is task, 10.0))

    assert asyncio.run(main())
