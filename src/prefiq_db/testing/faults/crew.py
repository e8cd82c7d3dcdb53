"""Workers that repeat the same work until nothing is left to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable


def run_threads(work: Callable[[], None], count: int) -> None:
    """Run *work* in *count* threads and wait for all."""
    threads = [threading.Thread(target=work, name=f"prefiq-crew-{number}") for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def run_tasks(work: Callable[[], Awaitable[None]], count: int) -> None:
    """Run *work* in *count* tasks and wait for all; cancel all if this task is cancelled."""

    async def task() -> None:
        await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(task())
