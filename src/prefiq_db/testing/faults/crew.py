"""Workers that do the same until there is nothing left to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable


def run_threads(work: Callable[[], None], count: int) -> None:
    """Run *work* in so many threads and wait for all."""
    threads = [threading.Thread(target=work, name=f"prefiq-crew-{number}") for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def run_tasks(work: Callable[[], Awaitable[None]], count: int) -> None:
    """Run *work* in so many tasks and wait for all; cancel all when this one is cancelled."""

    async def task() -> None:
        await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(task())
