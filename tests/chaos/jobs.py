"""Tasks that are cancelled somewhere, and what each was told of its transaction."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import anyio

from prefiq_db import AsyncDatabase
from prefiq_db.events import Listener, TransactionFinished
from prefiq_db.testing.faults.crew import run_tasks
from tests.cancelling import at_each_await

#: Not unique on purpose: what happens twice must be seen.
TABLE = "create table chaos_job (number integer not null)"
_OWN = "select cast(:number as decimal(10, 0))"
_NOTE = "insert into chaos_job (number) values (:number)"


class Way(enum.Enum):
    """How a task is cancelled."""

    TASK = "task.cancel()"
    TIMEOUT = "asyncio.timeout()"
    SCOPE = "anyio.CancelScope"


class Stage(enum.IntEnum):
    """How far a job got. Which await is which depends on the driver, and on whether it has to connect first."""

    READ = 0
    BEGIN = 1
    BODY = 2
    WRITTEN = 3
    COMMIT = 4


@dataclass(eq=False)
class Job:
    """One task: a transaction with a row of its own.

    Attributes:
        outcomes: of each attempt's ``tx``, after the end.
        events: the outcomes of its ``TransactionFinished``.
        told: how it ended: ``committed`` when it returned; what the ``CancelledError`` carries, where one got through;
            ``not committed`` for an error that means so; else ``None``.
        stage, at: it is cancelled at so many-th await from this stage on, if it still waits by then.
        struck: whether it was cancelled before it ended.
    """

    number: int
    exactly_once: bool
    repeats: bool
    way: Way
    stage: Stage
    at: int
    transactions: list[Any] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    told: str | None = None
    error: str = ""
    struck: bool = False
    foreign: int = 0
    reached: Stage = Stage.READ
    awaited: int = 0

    @property
    def outcomes(self) -> list[str]:
        return [str(tx.outcome) for tx in self.transactions]

    def problem(self, rows: int, unknown_is_legal: bool) -> str | None:
        """Return in a word what is wrong with what was told, when the database has so many rows of it."""
        truth = "committed" if rows else "not committed"
        if rows > 1:
            return "doubled"
        if self.foreign:
            return "foreign rows"
        told = [*self.outcomes, *self.events, *([self.told] if self.told else [])]
        if unknown_is_legal and "unknown" in told:
            return None
        if not set(told) <= {"committed", "not committed"}:
            return "unknown"
        # An attempt that did not commit may be followed by one that did.
        for heard in (self.outcomes, self.events):
            if (heard[-1] if heard else "not committed") != truth or "committed" in heard[:-1]:
                return "phantom" if rows else "lost"
        if self.told is not None and self.told != truth:
            return "phantom" if rows else "lost"
        return None


_current: ContextVar[Job] = ContextVar("chaos_job")


class Heard(Listener):
    """Gives each transaction's event to the job in whose context it was sent."""

    def transaction_finished(self, event: TransactionFinished) -> None:
        if (job := _current.get(None)) is not None:
            job.events.append(event.outcome)


async def _body(tx: Any, job: Job) -> int:
    job.transactions.append(tx)
    job.reached = Stage.BODY
    parameters = {"number": job.number}
    job.foreign += int(await tx.fetch_value(_OWN, parameters)) != job.number
    await tx.execute(_NOTE, parameters)
    job.reached = Stage.WRITTEN
    await asyncio.sleep(0)
    job.foreign += int(await tx.fetch_value(_OWN, parameters)) != job.number
    job.reached = Stage.COMMIT
    return job.number


async def _work(db: AsyncDatabase, job: Job) -> None:
    job.foreign += int(await db.fetch_value(_OWN, {"number": job.number})) != job.number
    job.reached = Stage.BEGIN
    if job.repeats:
        job.foreign += await db.run_in_transaction(_body, job, exactly_once=job.exactly_once) != job.number
    else:
        async with db.transaction(exactly_once=job.exactly_once) as tx:
            await _body(tx, job)
    job.told = "committed"


async def _cancelled(db: AsyncDatabase, job: Job) -> None:
    """Run the job and cancel it at its await."""
    task = asyncio.current_task()
    assert task is not None

    def striking(strike: Callable[[], object]) -> Callable[[int], None]:
        def at(number: int) -> None:
            job.awaited += job.reached >= job.stage
            if job.awaited == job.at and not job.struck:
                job.struck = True
                strike()

        return at

    if job.way is Way.TASK:
        await at_each_await(_work(db, job), striking(task.cancel))
    elif job.way is Way.TIMEOUT:
        async with asyncio.timeout(None) as timeout:
            now = asyncio.get_running_loop().time
            await at_each_await(_work(db, job), striking(lambda: timeout.reschedule(now())))
    else:
        with anyio.CancelScope() as scope:
            await at_each_await(_work(db, job), striking(scope.cancel))


async def _told(db: AsyncDatabase, job: Job) -> None:
    _current.set(job)
    try:
        await _cancelled(db, job)
    except BaseException as error:
        job.error = type(error).__name__
        # The first releases of Python 3.11 don't name the cause.
        cancellation = (error.__cause__ or error.__context__) if isinstance(error, TimeoutError) else error
        if isinstance(cancellation, asyncio.CancelledError):
            outcome = getattr(cancellation, "transaction_outcome", None)
            job.told = None if outcome is None else str(outcome)
        else:
            job.told = "unknown" if job.error == "OutcomeUnknownError" else "not committed"


async def run_jobs(
    db: AsyncDatabase, count: int, *, token_share: float = 0.5, workers: int = 16, seed: int = 7
) -> list[Job]:
    """Run so many tasks, each cancelled at an await of its own, chosen by chance; return what they were told."""
    chance = random.Random(seed)
    jobs = []
    for number in range(1, count + 1):
        stage = chance.choice(list(Stage))
        # COMMIT is one await, its resolution included.
        at = 1 if stage is Stage.COMMIT else chance.randint(1, 3)
        exactly_once, repeats = chance.random() < token_share, chance.random() < 0.5
        jobs.append(Job(number, exactly_once, repeats, chance.choice(list(Way)), stage, at))
    db.hooks.add(Heard())
    left = iter(jobs)

    async def work() -> None:
        for job in left:
            await asyncio.wait([asyncio.create_task(_told(db, job))])

    await run_tasks(work, workers)
    return jobs
