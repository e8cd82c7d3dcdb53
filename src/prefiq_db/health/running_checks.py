"""A running check, in a thread or in a task: many callers may wait for it, none longer than the deadline.

Why it doesn't run in the caller: decisions/0041-why-a-health-check-runs-beside-its-caller.md.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from prefiq_db.deadline import Deadline
from prefiq_db.forks import in_child
from prefiq_db.health.probe import Held
from prefiq_db.health.verdicts import Verdict, judge_error


class ThreadCheck:
    """A check in a thread of its own: the caller's deadline holds even if the driver blocks."""

    def __init__(self, name: str, work: Callable[[Held], Verdict], deadline: Deadline) -> None:
        self.started = time.monotonic()
        self.deadline = deadline
        self._work = work
        self._held = Held()
        self._is_of_the_parent = False
        in_child(self, ThreadCheck._stay_behind)
        self._future: Future[Verdict] = Future()
        self._future.set_running_or_notify_cancel()  # no waiting caller can cancel it
        threading.Thread(target=self._run, name=f"prefiq_db health {name}", daemon=True).start()

    def _run(self) -> None:
        try:
            verdict = self._work(self._held)
        except BaseException as error:  # noqa: BLE001 - every error is an answer, and callers wait for one
            verdict = judge_error(error)
        self._future.set_result(verdict)

    def _stay_behind(self) -> None:
        """Record, in a forked child, that the thread runs in the parent only and never ends here."""
        self._is_of_the_parent = True

    @property
    def is_over(self) -> bool:
        """Whether another check may start."""
        return self._is_of_the_parent or self._future.done()

    def wait(self) -> Verdict | None:
        """Return the verdict, or ``None`` if there is none by the deadline."""
        concurrent.futures.wait([self._future], self.deadline.left())
        return self._future.result() if self._future.done() else None

    async def wait_async(self) -> Verdict | None:
        """Return the verdict, as :meth:`wait` does."""
        waited = asyncio.wrap_future(self._future)
        await asyncio.wait([waited], timeout=self.deadline.left())
        waited.cancel()  # or a thread that ends late would call into a loop that may be closed by then
        return self._future.result() if self._future.done() else None

    def give_up(self) -> None:
        self._held.break_off()


class TaskCheck:
    """A check in a task of its own: if one caller is cancelled, the check goes on for the others."""

    def __init__(self, name: str, work: Callable[[Held], Coroutine[Any, Any, Verdict]], deadline: Deadline) -> None:
        self.started = time.monotonic()
        self.deadline = deadline
        self._held = Held()
        self._loop = asyncio.get_running_loop()
        # In an empty context: the check must not see the transaction of its caller.
        self._task = self._loop.create_task(
            self._run(work), name=f"prefiq_db health {name}", context=contextvars.Context()
        )

    async def _run(self, work: Callable[[Held], Coroutine[Any, Any, Verdict]]) -> Verdict:
        try:
            return await work(self._held)
        except Exception as error:  # noqa: BLE001 - every error is an answer
            return judge_error(error)

    @property
    def is_over(self) -> bool:
        """Whether another check may start; true too if this one's loop is closed, where it never ends."""
        return self._task.done() or self._loop.is_closed()

    def wait(self) -> Verdict | None:
        raise NotImplementedError  # HealthCheck refuses anything that needs a loop

    async def wait_async(self) -> Verdict | None:
        """Return the verdict, or ``None`` if there is none by the deadline."""
        await asyncio.wait([self._task], timeout=self.deadline.left())
        return self._task.result() if self._task.done() and not self._task.cancelled() else None

    def give_up(self) -> None:
        # A cancelled driver may send a cancel request to the unresponsive server, and wait for that.
        if not self._held.break_off():
            self._task.cancel()


RunningCheck = ThreadCheck | TaskCheck
