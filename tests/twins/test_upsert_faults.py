"""``upsert()`` when things go wrong: lost connections, silence, cancellations, deadlocks; and its cost at the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import RetryPolicy
from prefiq_db.errors import DeadlockError, NotCommittedError, OutcomeUnknownError, PrefiqDbError, StatementTimeoutError
from prefiq_db.events import AttemptFailed, Listener
from prefiq_db.execution import upsert_request
from prefiq_db.testing.faults import COMMIT, BlackHole, CutReply, CutRequest, FaultProxy
from prefiq_db.testing.wire import WireCounter
from tests.cancelling import at_each_await
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database
from tests.twins.support import assert_silent, in_engine_begin, is_waiting_for_lock, session_id

QUICK = RetryPolicy(wait_initial_seconds=0.001, wait_max_seconds=0.002)
servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
meta = sa.MetaData()
item = sa.Table(
    "item",
    meta,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("qty", sa.Integer, nullable=False),
    mysql_engine="InnoDB",
)
ONE_MORE = {"qty": lambda stored, given: stored.qty + 1}


def is_upsert(message: Any) -> bool:
    return "INSERT INTO item" in message.sql


async def stored(db: Any) -> list[tuple[int, int]]:
    return [tuple(row) for row in await db.fetch_all(sa.select(item).order_by(item.c.id))]


@pytest.fixture
def faulty(
    db: Any, proxy: FaultProxy, backend: Backend, world: str, run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """A database behind the proxy; three rows go in two statements."""
    monkeypatch.setattr(upsert_request, "MOST_ROWS", 2)
    run(in_engine_begin(db, meta.create_all))
    made = make_database(world, proxy.url(backend.url), pool_size=1, retry=QUICK, statement_timeout_seconds=5)
    run(made.upsert(item, {"id": 100, "qty": 0}, key="id"))
    yield made
    run(made.close())


def rows(*ids: int) -> list[dict[str, int]]:
    return [{"id": number, "qty": 1} for number in ids]


# --- lost connections ----------------------------------------------------------------------------


@servers
async def test_a_lost_reply_is_never_repeated_on_a_guess(faulty: Any, db: Any, proxy: FaultProxy) -> None:
    """The rows are stored once, and the caller is told that nobody knows; only idempotent=True repeats."""
    with proxy.fault(CutReply(), on=is_upsert, times=1) as plan:
        with pytest.raises(OutcomeUnknownError):
            await faulty.upsert(item, rows(1, 2), key="id", update=ONE_MORE)
        assert plan.seen == 1
    assert await stored(db) == [(1, 1), (2, 1), (100, 0)]
    with proxy.fault(CutReply(), on=is_upsert, times=1) as plan:
        result = await faulty.using(idempotent=True).upsert(
            item, rows(1, 2), key="id", update=ONE_MORE, returning="qty"
        )
        assert plan.seen == 2
    assert [row.qty for row in result.rows] == [3, 3]


@servers
async def test_a_request_that_never_arrives_changes_nothing(faulty: Any, db: Any, proxy: FaultProxy) -> None:
    with proxy.fault(CutRequest(), on=is_upsert, times=1), pytest.raises(OutcomeUnknownError):
        await faulty.upsert(item, rows(1, 2), key="id")
    assert await stored(db) == [(100, 0)]


@servers
async def test_a_connection_lost_between_statements_runs_all_again(faulty: Any, db: Any, proxy: FaultProxy) -> None:
    """Several statements are a transaction: what was lost before COMMIT never happened, so it runs again, once."""
    with proxy.fault(CutReply(), on=is_upsert, every=2, times=1):
        result = await faulty.upsert(item, rows(1, 2, 3), key="id", update=ONE_MORE)
    assert (result.inserted, await stored(db)) == (3, [(1, 1), (2, 1), (3, 1), (100, 0)])
    with proxy.fault(CutReply(), on=COMMIT, times=1), pytest.raises(OutcomeUnknownError):
        await faulty.upsert(item, rows(1, 2, 3), key="id", update=ONE_MORE)
    assert await stored(db) == [(1, 2), (2, 2), (3, 2), (100, 0)]


@servers
async def test_a_connection_lost_inside_a_transaction_loses_it(faulty: Any, db: Any, proxy: FaultProxy) -> None:
    with proxy.fault(CutReply(), on=is_upsert, every=2, times=1), pytest.raises(PrefiqDbError) as caught:
        async with faulty.transaction() as tx:
            await tx.upsert(item, rows(1, 2, 3), key="id")
    assert caught.value.classification.connection_lost or isinstance(caught.value, NotCommittedError)
    assert await stored(db) == [(100, 0)]


@servers
async def test_a_silent_server_is_left_in_time(faulty: Any, db: Any, proxy: FaultProxy, backend: Backend) -> None:
    """Unless the server says that it was stopped, nobody knows; the next call gets another connection."""
    with proxy.fault(BlackHole(delivered=True), on=is_upsert, times=1):
        with pytest.raises((OutcomeUnknownError, StatementTimeoutError)) as caught:
            await faulty.using(timeout=0.3).upsert(item, rows(1, 2), key="id")
        assert_silent(caught.value)
    proxy.cut_all()  # or the server's session would keep its locks
    there = await stored(db)
    if isinstance(caught.value, StatementTimeoutError):
        # The server was asked to stop the statement, and said that it did.
        assert there == [(100, 0)]
    assert there in ([(100, 0)], [(1, 1), (2, 1), (100, 0)])
    assert (await faulty.upsert(item, rows(1, 2, 3), key="id")).inserted == 4 - len(there)


# --- cancellation --------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True)
@pytest.mark.parametrize("many", [False, True], ids=["one statement", "several"])
async def test_a_cancellation_at_each_await_leaves_all_or_nothing(
    make_db: Callable[..., Any], backend: Backend, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsert_request, "MOST_ROWS", 2 if many else 10)
    db, looker = make_db(pool_size=1, max_overflow=1), make_db()
    await in_engine_begin(db, meta.create_all)
    await db.upsert(item, rows(1, 2, 3), key="id")
    for number in range(1, 200):
        before = [quantity for _, quantity in await stored(looker)]

        async def work(number: int = number) -> Any:
            task = asyncio.current_task()
            assert task is not None
            cancel = task.cancel
            body = db.upsert(item, rows(1, 2, 3), key="id", update=ONE_MORE, returning="qty")
            return await at_each_await(body, lambda here: here == number and cancel())

        (result,) = await asyncio.gather(asyncio.ensure_future(work()), return_exceptions=True)
        assert db.stats().pool.checked_out == 0
        # A row that a cancelled statement still locks is waited for.
        async with looker.transaction() as tx:
            await tx.execute(sa.update(item).values(qty=item.c.qty))
        after = [quantity for _, quantity in await stored(looker)]
        assert after in (before, [quantity + 1 for quantity in before])
        if not isinstance(result, asyncio.CancelledError):
            assert [row.qty for row in result.rows] == after
            assert number > 1, "it must have waited at least once"
            return
    raise AssertionError("it suspended more than 200 times")


# --- many at once --------------------------------------------------------------------------------


class Attempts(Listener):
    def __init__(self) -> None:
        self.failed: list[AttemptFailed] = []

    def attempt_failed(self, event: AttemptFailed) -> None:
        self.failed.append(event)


async def test_two_sessions_with_the_same_keys_lose_nothing(make_db: Callable[..., Any], harness: Harness) -> None:
    """Each adds one to each row, inserted or not, one forwards and one backwards: every row has every addition."""
    db = make_db(pool_size=2, retry=RetryPolicy(attempts=8, wait_initial_seconds=0.01))
    await in_engine_begin(db, meta.create_all)
    count, rounds = 12, 3

    async def worker(ids: range) -> None:
        for _ in range(rounds):
            result = await db.upsert(item, rows(*ids), key="id", update=ONE_MORE, returning=["id", "qty"])
            assert [row.id for row in result.rows] == list(ids)

    await harness.together(lambda: worker(range(count)), lambda: worker(range(count - 1, -1, -1)))
    assert await stored(db) == [(number, 2 * rounds) for number in range(count)]


@servers
async def test_a_deadlock_of_a_single_statement_runs_it_again(
    make_db: Callable[..., Any], backend: Backend, harness: Harness
) -> None:
    """The server has undone the victim. If that is the upsert, which is whole in itself, it runs again."""
    db, other = make_db(pool_size=1), make_db(pool_size=1)
    attempts = Attempts()
    db.hooks.add(attempts)
    await in_engine_begin(db, meta.create_all)
    await db.upsert(item, rows(*range(50)), key="id")
    session = await session_id(db, backend)
    locked = harness.event()

    async def upserting() -> None:
        await locked.wait()
        await db.upsert(item, rows(1, 2), key="id", update=ONE_MORE)

    async def holding() -> None:
        async with other.transaction() as tx:
            # More rows than the upsert's: MariaDB undoes the one that has done less.
            await tx.execute(sa.update(item).where(item.c.id > 1).values(qty=5))
            locked.set()

            async def waits() -> bool:
                return await is_waiting_for_lock(backend, session)

            await harness.until(waits)
            await tx.execute(sa.update(item).where(item.c.id == 1).values(qty=5))

    await harness.together(upserting, holding)
    assert (await stored(db))[1:3] == [(1, 6), (2, 6)]
    assert [event.kind for event in attempts.failed] == [DeadlockError.default_kind]


async def test_inside_a_transaction_a_deadlock_is_the_callers(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the statement isn't all: only the whole transaction may run again, and run_in_transaction does that."""
    await in_engine_begin(db, meta.create_all)
    runs = 0

    async def body(tx: Any) -> int:
        nonlocal runs
        runs += 1
        result = await tx.upsert(item, rows(1), key="id", update=ONE_MORE)
        if runs == 1:
            raise DeadlockError("made up", classification=_deadlock())
        return int(result.inserted)

    assert await db.run_in_transaction(body) == 1
    assert (runs, await stored(db)) == (2, [(1, 1)])


def _deadlock() -> Any:
    from prefiq_db import classify_error

    return classify_error("postgresql", "40P01")


# --- what it costs -------------------------------------------------------------------------------


@servers
async def test_an_upsert_is_one_round_trip(backend: Backend, world: str, run: Any, db: Any) -> None:
    """One row or many, alone or in a transaction; nothing is asked first, once the table is known."""
    await in_engine_begin(db, meta.create_all)
    assert backend.server is not None
    with WireCounter(backend.server.host, backend.server.port) as wire:
        counted = make_database(world, wire.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0)
        try:
            await counted.upsert(item, rows(1), key="id")
            for given, options in (
                (rows(1), {}),
                (rows(*range(100)), {"returning": "qty"}),
                (rows(5, 6), {"update": ()}),
            ):
                with wire.count() as count:
                    await counted.upsert(item, given, key="id", **options)
                assert count.round_trips == 1
            async with counted.transaction() as tx:
                await tx.fetch_value("select 1")
                with wire.count() as count:
                    await tx.upsert(item, rows(1, 2, 3), key="id", returning="qty")
                assert count.round_trips == 1
        finally:
            await counted.close()
