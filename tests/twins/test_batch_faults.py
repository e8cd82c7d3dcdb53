"""A batch under faults: never half of it, never twice, and never a guess."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.errors import (
    OutcomeUnknownError,
    ResultsLostError,
    SchemaError,
    StatementCancelledError,
    StatementTimeoutError,
)
from prefiq_db.events import Listener, OutcomeResolved, TransactionFinished
from prefiq_db.testing.faults import (
    COMMIT,
    BlackHole,
    CutReply,
    CutRequest,
    DeliverLate,
    Fault,
    FaultProxy,
    Message,
)
from prefiq_db.testing.processes import wait_until
from tests.conftest import Backend
from tests.twins.harness import Harness, drive, make_database
from tests.twins.support import slow_read, upgrade_schema

pytestmark = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)

POLICY = RetryPolicy(attempts=4, wait_initial_seconds=0.001, wait_max_seconds=0.01, total_seconds=8)
ADD_TEN = "update stock set quantity = quantity + 10 where id = 1"
ADD_ONE = ("update stock set quantity = quantity + :n where id = 2", {"n": 1})
READ = "select quantity from stock order by id"


@pytest.fixture
def stock(backend: Backend, db: Any, run: Callable[[Any], Any]) -> Any:
    """The database with a table of two rows."""
    run(db.execute("create table stock (id integer primary key, quantity integer not null)"))
    run(db.execute("insert into stock (id, quantity) values (1, 0), (2, 0)"))
    return db


@pytest.fixture
def distant(stock: Any, backend: Backend, world: str, proxy: FaultProxy, run: Callable[[Any], Any]) -> Iterator[Any]:
    """The same database, through the proxy; in the end no connection is missing from its pool."""
    db = make_database(world, proxy.url(backend.url), ssl_mode="disable", pool_size=2, retry=POLICY)
    run(db.open())
    yield db
    checked_out = db.stats().pool.checked_out
    run(db.close())
    assert not checked_out


async def applied(db: Any) -> list[int]:
    """Return how often each of the two statements was applied."""
    tens, ones = (row[0] for row in await db.fetch_all(READ))
    return [tens // 10, ones]


def in_batch(message: Message) -> bool:
    return "stock" in message.sql


@pytest.mark.parametrize(
    ("fault", "happened"), [(CutRequest(), 0), (CutReply(), 1)], ids=["lost before COMMIT", "reply lost"]
)
async def test_a_batch_without_a_reply_is_of_unknown_outcome(
    distant: Any, stock: Any, proxy: FaultProxy, fault: Fault, happened: int
) -> None:
    """It is told, and not run again: all of it happened, or nothing."""
    finished: list[TransactionFinished] = []
    distant.hooks.add(_Ends(finished))
    with proxy.fault(fault, on=COMMIT, times=1) as plan, pytest.raises(OutcomeUnknownError) as caught:
        await distant.batch([ADD_TEN, ADD_ONE])
    assert plan.hits == 1
    proxy.wait()
    assert await applied(stock) == [happened, happened]
    assert caught.value.statement_index is None  # nobody knows
    assert [event.outcome for event in finished] == ["unknown"]
    await distant.batch([ADD_TEN, ADD_ONE])
    assert await applied(stock) == [happened + 1, happened + 1]


class _Ends(Listener):
    def __init__(self, finished: list[TransactionFinished]) -> None:
        self._finished = finished

    def transaction_finished(self, event: TransactionFinished) -> None:
        self._finished.append(event)


async def test_a_batch_of_reads_is_read_again(distant: Any, proxy: FaultProxy) -> None:
    """Nothing can happen twice, so a lost reply costs another attempt and no error."""
    with proxy.fault(CutReply(), on=in_batch, times=1) as plan:
        results = await distant.batch([READ, "select 1 from stock where id = 1"])
    assert plan.hits == 1
    assert [[tuple(row) for row in each.rows] for each in results] == [[(0,), (0,)], [(1,)]]


async def test_a_silent_server_is_given_up(distant: Any, stock: Any, proxy: FaultProxy) -> None:
    """The time limit of a statement holds for all of them together, whatever the server does."""
    hasty = distant.using(timeout=0.5)
    with proxy.fault(BlackHole(), on=in_batch, times=1), pytest.raises(OutcomeUnknownError):
        await hasty.batch([ADD_TEN, ADD_ONE])
    with proxy.fault(BlackHole(), on=in_batch, times=1), pytest.raises(StatementTimeoutError):
        await hasty.batch([READ, READ])
    proxy.cut_all()
    assert await applied(stock) == [0, 0]


_STOP_IT = {
    "postgresql": "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'",
    "mariadb": "select concat('kill query ', id) from information_schema.processlist where state = 'User sleep'",
}


async def test_a_batch_that_the_server_stops_is_undone(stock: Any, backend: Backend, harness: Harness) -> None:
    """MariaDB's handler doesn't run then; what the server says is enough to know that nothing stays."""
    server = backend.server
    assert server is not None

    async def stop() -> None:
        await harness.until(lambda: _runs(backend))
        for (command,) in server.execute(_STOP_IT[backend.name]):
            if isinstance(command, str):
                server.execute(command)

    async def run() -> None:
        with pytest.raises(StatementCancelledError) as caught:
            await stock.batch([ADD_TEN, slow_read(backend), ADD_ONE])
        assert caught.value.statement_index == 1

    await harness.together(run, stop)
    assert await applied(stock) == [0, 0]
    await stock.batch([ADD_TEN, ADD_ONE])
    assert await applied(stock) == [1, 1]


@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True)
@pytest.mark.parametrize("exactly_once", [False, True])
async def test_a_cancelled_batch_tells_its_outcome(
    stock: Any, backend: Backend, harness: Harness, exactly_once: bool
) -> None:
    """Its connection is closed, nothing of it stays, and the pool goes on; with a token the outcome is found out."""
    upgrade_schema(backend)
    task = asyncio.create_task(stock.batch([ADD_TEN, slow_read(backend), ADD_ONE], exactly_once=exactly_once))
    await harness.until(lambda: _runs(backend))
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    outcome = getattr(caught.value, "transaction_outcome", None)
    assert outcome == "not committed" if exactly_once else outcome in ("not committed", "unknown")
    assert await applied(stock) == [0, 0]
    assert stock.stats().pool.checked_out == 0


async def _runs(backend: Backend) -> bool:
    running = {
        "postgresql": "select count(*) from pg_stat_activity where wait_event = 'PgSleep'",
        "mariadb": "select count(*) from information_schema.processlist where state = 'User sleep'",
    }[backend.name]
    assert backend.server is not None
    return int(backend.server.execute(running)[0][0]) > 0


# --- exactly once --------------------------------------------------------------------------------


async def test_exactly_once_needs_its_table(stock: Any) -> None:
    with pytest.raises(SchemaError, match="prefiq_commit_token"):
        await stock.batch([ADD_TEN, ADD_ONE], exactly_once=True)
    assert await applied(stock) == [0, 0]


async def test_exactly_once_runs_again_what_was_not_committed(
    distant: Any, stock: Any, backend: Backend, proxy: FaultProxy
) -> None:
    upgrade_schema(backend)
    with proxy.fault(CutRequest(), on=COMMIT, times=1) as plan:
        results = await distant.batch([ADD_TEN, ADD_ONE], exactly_once=True)
    assert plan.hits == 1
    assert await applied(stock) == [1, 1]
    assert [each.rowcount for each in results] == [1, 1]


async def test_exactly_once_holds_when_the_commit_arrives_late(
    distant: Any, stock: Any, backend: Backend, proxy: FaultProxy
) -> None:
    """Before the question is settled, and it is committed; or after it, and it can't be carried out any more."""
    upgrade_schema(backend)
    with proxy.fault(DeliverLate(0.2), on=COMMIT, times=1) as plan:
        try:
            results = await distant.batch([ADD_TEN, ADD_ONE], exactly_once=True)
        except ResultsLostError:
            pass
        else:
            assert [each.rowcount for each in results] == [1, 1]
    assert plan.hits == 1
    proxy.wait()
    assert await applied(stock) == [1, 1]


async def test_exactly_once_tells_that_it_is_committed_when_the_results_are_lost(
    distant: Any, stock: Any, backend: Backend, proxy: FaultProxy
) -> None:
    """An error of its own: neither a failure that may be repeated, nor a doubt."""
    upgrade_schema(backend)
    resolved: list[OutcomeResolved] = []
    distant.hooks.add(_Resolved(resolved))
    with proxy.fault(CutReply(), on=COMMIT, times=1) as plan, pytest.raises(ResultsLostError) as caught:
        await distant.batch([ADD_TEN, ADD_ONE], exactly_once=True)
    assert plan.hits == 1
    assert await applied(stock) == [1, 1]
    assert not caught.value.is_transient
    assert not caught.value.classification.retry_transaction
    assert [event.outcome for event in resolved] == ["committed"]


class _Resolved(Listener):
    def __init__(self, resolved: list[OutcomeResolved]) -> None:
        self._resolved = resolved

    def outcome_resolved(self, event: OutcomeResolved) -> None:
        self._resolved.append(event)


async def test_control_a_blind_retry_doubles(distant: Any, stock: Any, proxy: FaultProxy) -> None:
    """What the tests above would notice, if a batch were repeated on a guess."""
    with proxy.fault(CutReply(), on=COMMIT, times=1), pytest.raises(OutcomeUnknownError):
        await distant.batch([ADD_TEN, ADD_ONE])
    await distant.batch([ADD_TEN, ADD_ONE])
    assert await applied(stock) == [2, 2]


# --- conflicts and interruptions -----------------------------------------------------------------

_CONFLICT_ONCE = {
    "postgresql": [
        "create sequence tries",
        "create function conflict_once() returns trigger language plpgsql as $$ begin if nextval('tries') = 1 then"
        " raise exception 'again' using errcode = '40001'; end if; return new; end $$",
        "create trigger conflict before update on stock for each row execute function conflict_once()",
    ],
    "mariadb": [
        "create sequence tries nocache",
        "create trigger conflict before update on stock for each row if nextval(tries) = 1 then"
        " signal sqlstate '40001' set mysql_errno = 1213, message_text = 'again'; end if",
    ],
}


async def test_a_conflict_runs_the_batch_again(stock: Any, backend: Backend) -> None:
    """The server has undone it, and said so; nobody's code ran in it."""
    for sql in _CONFLICT_ONCE[backend.name]:
        await stock.execute(sql)
    results = await stock.batch([ADD_TEN, ADD_ONE])
    assert [each.rowcount for each in results] == [1, 1]
    assert await applied(stock) == [1, 1]
    assert stock.stats().retry_count == 1


class _TimeIsUp(Exception):  # noqa: N818 - as job queues name theirs
    pass


@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
@pytest.mark.parametrize("kind", [_TimeIsUp, KeyboardInterrupt])
async def test_a_signal_in_a_batch_leaves_nothing(stock: Any, backend: Backend, kind: type[BaseException]) -> None:
    """Whatever the handler raises: nothing stays, and what is raised doesn't say more than is known."""

    def interrupt(number: int, frame: object) -> None:
        raise kind

    before = signal.signal(signal.SIGALRM, interrupt)
    watch = threading.Thread(target=_interrupt_when_it_runs, args=(backend,))
    watch.start()
    try:
        with pytest.raises((kind, OutcomeUnknownError)) as caught:
            await stock.batch([ADD_TEN, slow_read(backend), ADD_ONE])
    finally:
        watch.join()
        signal.signal(signal.SIGALRM, before)
    if isinstance(caught.value, kind):
        assert getattr(caught.value, "transaction_outcome", None) in ("not committed", "unknown")
    assert await applied(stock) == [0, 0]
    assert stock.stats().pool.checked_out == 0


def _interrupt_when_it_runs(backend: Backend) -> None:
    wait_until(lambda: drive(_runs(backend)), timeout_seconds=20)
    os.kill(os.getpid(), signal.SIGALRM)  # Python runs the handler in the main thread


async def test_a_batch_that_is_lost_in_a_transaction_loses_the_transaction(
    distant: Any, stock: Any, proxy: FaultProxy
) -> None:
    """Nothing of it is committed, so all of it runs again."""

    async def body(tx: Any) -> None:
        await tx.execute("update stock set quantity = quantity + 10 where id = 1")
        await tx.batch([ADD_ONE, "select quantity from stock"])

    with proxy.fault(CutReply(), on=lambda message: "where id = 2" in message.sql, times=1) as plan:
        await distant.run_in_transaction(body)
    assert plan.hits == 1
    assert await applied(stock) == [1, 1]


async def test_a_deadlock_in_a_batch_ends_the_transaction_around_it(stock: Any, backend: Backend) -> None:
    """MariaDB has undone the transaction by then, so nothing more may run in it; all of it runs again."""
    for sql in _CONFLICT_ONCE[backend.name]:
        await stock.execute(sql)

    async def body(tx: Any) -> None:
        await tx.execute("insert into stock (id, quantity) values (3, 0)")
        await tx.batch([ADD_TEN, ADD_ONE])

    await stock.run_in_transaction(body)
    assert (await applied_to_all(stock)) == [10, 1, 0]


async def applied_to_all(db: Any) -> list[int]:
    return [row[0] for row in await db.fetch_all(READ)]
