"""Tasks cancelled at awaits chosen by chance, COMMIT included: nothing leaks, and what each was told is the truth."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, RetryPolicy
from prefiq_db.bridge import AsyncRuntime
from prefiq_db.testing.faults import CLAIM, COMMIT, CutReply, CutRequest, Delay, FaultProxy
from prefiq_db.testing.faults.direct import Direct, direct
from prefiq_db.testing.processes import wait_until
from tests.chaos.conftest import closing_async, wired
from tests.chaos.jobs import TABLE, Job, run_jobs
from tests.chaos.scenarios import Hit, LateByChance, Scenario, struck
from tests.chaos.table import Line
from tests.conftest import Backend

pytestmark = [
    pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True),
    pytest.mark.usefixtures("tokens"),
]

POOL = 8
PATIENT = RetryPolicy(attempts=50, wait_initial_seconds=0.01, wait_max_seconds=0.2, total_seconds=30)
_QUIET_SECONDS = 20.0

CANCELLED: dict[str, Scenario] = {
    "nothing": lambda late: [],
    # Long enough that a cancellation finds COMMIT, or its reply, on the wire.
    "slow COMMIT": lambda late: [
        Hit(Delay(request_seconds=0.02), COMMIT, 0.3),
        Hit(Delay(reply_seconds=0.02), COMMIT, 0.5),
    ],
    "lost COMMIT": lambda late: [
        Hit(CutReply(), CLAIM, 0.2),
        Hit(Delay(reply_seconds=0.02), CLAIM, 0.5),
        Hit(CutReply(), COMMIT, 0.05),
        Hit(CutRequest(), COMMIT, 0.05),
        Hit(LateByChance(0.02, 0.3), COMMIT, 0.05),
    ],
}


@pytest.fixture
def place(backend: Backend) -> Direct:
    """The database, asked directly, with a table for the jobs."""
    made = direct(*_where(backend))
    made.execute(TABLE)
    return made


def _where(backend: Backend) -> tuple[Any, str | None]:
    if backend.server is None:
        return backend.url.removeprefix("sqlite:///"), None
    return backend.server, backend.url.rpartition("/")[2]


@pytest.fixture
def cancel(
    backend: Backend, place: Direct, add_line: Callable[[Line], None], transfers: int, is_long: bool
) -> Iterator[Callable[..., list[str]]]:
    """Run jobs under a scenario; return what was wrong with each, after looking for what leaked."""
    with ExitStack() as stack:

        def run(name: str, *, label: str = "") -> list[str]:
            proxy = None if backend.server is None else stack.enter_context(FaultProxy(backend.server))
            began = time.monotonic()
            jobs, leaks = asyncio.run(_run(backend, proxy, CANCELLED[name], transfers if is_long else 3 * transfers))
            seconds = time.monotonic() - began
            if proxy is not None:
                proxy.wait()
            place.wait_until_quiet(_QUIET_SECONDS)
            rows = Counter(int(row[0]) for row in place.execute("select number from chaos_job"))
            lost_is_legal = name == "lost COMMIT"
            problems = [
                (job, problem)
                for job in jobs
                if (problem := job.problem(rows[job.number], lost_is_legal and not job.exactly_once))
            ]
            add_line(
                _line(f"cancelled, {name}{label}", backend.name, jobs, Counter(p for _, p in problems), leaks, seconds)
            )
            assert sum(job.struck for job in jobs) > len(jobs) / 4
            return [f"{problem}: {job} {job.outcomes}" for job, problem in problems] + leaks

        yield run


def _line(fault: str, server: str, jobs: list[Job], wrong: Counter[str], leaks: list[str], seconds: float) -> Line:
    last = Counter((job.events or ["not committed"])[-1] for job in jobs)
    return Line(
        fault=fault,
        world="async",
        server=server,
        transfers=len(jobs),
        attempts=sum(len(job.transactions) for job in jobs),
        hits=sum(job.struck for job in jobs),
        committed=last["committed"],
        not_committed=last["not committed"],
        unknown=last["unknown"],
        lost=wrong["lost"],
        doubled=wrong["doubled"] + wrong["phantom"],
        seconds=seconds,
        others=wrong["foreign rows"] + wrong["unknown"] + len(leaks),
    )


async def _run(
    backend: Backend, proxy: FaultProxy | None, scenario: Scenario, count: int
) -> tuple[list[Job], list[str]]:
    leaks: list[str] = []
    url = backend.url if proxy is None else proxy.url(backend.url)
    async with AsyncExitStack() as stack:
        made = AsyncDatabase(url, pool_size=POOL, max_overflow=0, pool_timeout_seconds=60, retry=PATIENT)
        db = await stack.enter_async_context(closing_async(made))
        await db.open()
        if proxy is not None:
            stack.enter_context(struck(proxy, scenario, 0.0))
        jobs = await run_jobs(db, count)
        if db.stats().pool.checked_out:
            leaks.append(f"{db.stats().pool.checked_out} connections checked out")
        if len(asyncio.all_tasks()) > 1:
            leaks.append(f"{len(asyncio.all_tasks()) - 1} tasks left")
        if backend.server is not None:
            assert proxy is not None
            database, server = backend.url.rpartition("/")[2], backend.server
            await asyncio.to_thread(proxy.wait)

            def is_back() -> bool:
                return len(server.sessions(database)) <= POOL

            if not await asyncio.to_thread(wait_until, is_back, timeout_seconds=_QUIET_SECONDS, poll_seconds=0.2):
                leaks.append(f"{len(server.sessions(database))} sessions at the server")
            if server.open_transactions(database):
                leaks.append("open transactions")
    return jobs, leaks


def test_a_cancelled_task_leaves_nothing_and_tells_the_truth(cancel: Callable[..., list[str]], world: str) -> None:
    """On each backend; task.cancel(), asyncio.timeout() and anyio's scopes, with and without exactly_once."""
    assert cancel("nothing") == []


@wired
@pytest.mark.parametrize("name", ["slow COMMIT", "lost COMMIT"])
def test_also_while_commit_or_its_resolution_is_on_the_wire(
    cancel: Callable[..., list[str]], world: str, name: str
) -> None:
    assert cancel(name) == []


@wired
def test_without_the_shield_the_truth_is_lost(
    cancel: Callable[..., list[str]], world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same tasks, with COMMIT left to the cancellation."""
    for shield in ("shielded", "undisturbed"):
        monkeypatch.setattr(AsyncRuntime, shield, lambda self, function, budget_seconds: function())
    found = Counter(line.partition(":")[0] for line in cancel("slow COMMIT", label=" (control)"))
    assert found["unknown"] > 0, found
