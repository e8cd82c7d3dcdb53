"""A task that waits in a coroutine: closed, refused or cancelled there, it leaves its connection as it found it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.bridge import spawn
from prefiq_db.core import statements
from prefiq_db.errors import ErrorKind, PrefiqDbError, UsageError
from prefiq_db.events import CallFinished, CallStarted, Listener, StatementFinished
from prefiq_db.pool.vetting import AsyncPrefiqPool
from tests.conftest import Backend
from tests.twins.harness import make_harness
from tests.twins.support import is_sleeping, kill_session, session_id, slow_read

pytestmark = pytest.mark.parametrize(
    "world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True
)

_HARNESS = make_harness("async")
_ASK = "select :n"
_BRIEF = {
    "sqlite": "with recursive n(i) as (select 1 union all select i + 1 from n where i < 300000) select count(*) from n",
    "postgresql": "select pg_sleep(0.3)",
    "mariadb": "select sleep(0.3)",
}


class _Hears(Listener):
    def __init__(self) -> None:
        self.told: list[str] = []

    def call_finished(self, event: CallFinished) -> None:
        self.told.append(event.verb)


class _HearsEnds(Listener):
    def __init__(self) -> None:
        self.told: list[tuple[str, ErrorKind | None]] = []

    def call_started(self, event: CallStarted) -> None:
        assert event.origin is not None
        self.told.append((event.origin.function, None))

    def call_finished(self, event: CallFinished) -> None:
        self.told.append((event.verb, event.kind))


class _HearsStatements(Listener):
    told = 0

    def statement_finished(self, event: StatementFinished) -> None:
        self.told += 1


async def _warm(db: Any) -> None:
    for _ in range(4):
        assert await db.fetch_value(_ASK, {"n": "1"}) == "1"


async def _until(condition: Callable[[], bool]) -> None:
    async def holds() -> bool:
        return condition()

    await _HARNESS.until(holds)


def _is_whole(db: Any) -> bool:
    """Return whether each place of the pool has an idle connection."""
    stats = db.stats().pool
    return stats.checked_out == 0 == stats.pending and len(db.engine.sync_engine.pool._places) == stats.idle


async def _refused_after_its_wait(db: Any, backend: Backend) -> list[Any]:
    """Return what two callers get that waited for a connection; the values of the first are gone by then."""
    await _warm(db)
    pool = db.engine.sync_engine.pool
    holder = asyncio.create_task(db.using(timeout=20).fetch_value(_BRIEF[backend.name]))
    await _until(lambda: pool.checkedout() == 1)
    params = {"n": "1"}
    waiting = [asyncio.create_task(db.fetch_value(_ASK, given)) for given in (params, {"n": "2"})]
    await _until(lambda: pool.waiting_count() == 2)
    params.clear()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    await holder
    return results


async def test_a_call_that_is_refused_after_its_wait_passes_its_connection_on(make_db: Any, backend: Backend) -> None:
    """Its error is kept meanwhile, with all that its traceback holds."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=20)
    first, second = await _refused_after_its_wait(db, backend)
    assert isinstance(first, UsageError)
    assert second == "2"
    assert db.stats().pool.checked_out == 0
    assert db.stats().pool.idle == 1


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_control_a_connection_that_is_not_passed_on_is_missed(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(AsyncPrefiqPool, "give_up", lambda pool, given: kept.append(given))
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=2)
    _, second = await _refused_after_its_wait(db, backend)
    assert isinstance(second, Exception)
    monkeypatch.undo()
    db.engine.sync_engine.pool.give_up(kept.pop())


@pytest.mark.parametrize("road", ["short", "direct"])
@pytest.mark.parametrize("text", ["fast", "slow"])
async def test_a_coroutine_that_is_closed_while_it_waits(make_db: Any, backend: Backend, text: str, road: str) -> None:
    """As a task is that its loop leaves behind: nothing can be awaited, and no connection stays open or in use."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=20)
    await _warm(db)
    statement: Any = _ASK if text == "fast" else _BRIEF[backend.name]
    values = {"n": "1"} if text == "fast" else None
    if road == "direct":
        statement = sa.text(statement)
    for _ in range(3):
        await db.fetch_one(statement, values)
    coroutine = db.fetch_one(statement, values)
    coroutine.send(None)
    coroutine.close()
    del coroutine
    gc.collect()
    assert db.stats().pool.checked_out == 0
    assert await db.fetch_value(_ASK, {"n": "5"}) == "5"
    assert _is_whole(db)


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
async def test_a_coroutine_that_is_closed_ends_its_statement(make_db: Any, backend: Backend) -> None:
    db = make_db(pool_size=1, max_overflow=0)
    for _ in range(3):
        await db.fetch_value("select pg_sleep(0)")
    session = await session_id(db, backend)
    coroutine = db.fetch_value(slow_read(backend))
    future = coroutine.send(None)
    for _ in range(3):
        await asyncio.sleep(0.05)
        if future.done():
            future = coroutine.send(None)
    await _HARNESS.until(lambda: is_sleeping(backend, session))
    coroutine.close()

    async def has_ended() -> bool:
        return not await is_sleeping(backend, session)

    await _HARNESS.until(has_ended)


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"], indirect=True)
async def test_who_listens_meanwhile_hears_of_a_call_that_gets_an_empty_place(make_db: Any, backend: Backend) -> None:
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=20)
    await _warm(db)
    pool = db.engine.sync_engine.pool
    session = await session_id(db, backend)
    holder = asyncio.create_task(db.fetch_value(slow_read(backend)))
    await _until(lambda: pool.checkedout() == 1)
    waiting = asyncio.create_task(db.fetch_value(_ASK, {"n": "1"}))
    await _until(lambda: pool.waiting_count() == 1)
    hears = _Hears()
    db.hooks.add(hears)
    holder.cancel()
    kill_session(backend, session)
    ended, value = await asyncio.gather(holder, waiting, return_exceptions=True)
    assert isinstance(ended, BaseException)
    assert value == "1"
    assert "fetch_value" in hears.told
    assert _is_whole(db)


async def test_a_gift_whose_waiter_is_cancelled_when_the_pool_is_closed(make_db: Any, backend: Backend) -> None:
    """The connection is closed where nobody can wait for its driver: it must not stay open, nor the error be logged."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=20)
    await _warm(db)
    pool = db.engine.sync_engine.pool
    record = await pool.take_awaited()
    raw = record.dbapi_connection._connection
    waiting = asyncio.create_task(db.fetch_value(_ASK, {"n": "1"}))
    await _until(lambda: pool.waiting_count() == 1)
    pool.give_back(record)  # the waiter has it, and is not awake yet
    pool.close_returning(True)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(pool._places) == 0
    assert record.dbapi_connection is None
    if backend.name == "postgresql":
        assert raw.closed
    pool.close_returning(False)
    assert await db.fetch_value(_ASK, {"n": "5"}) == "5"


@pytest.mark.parametrize("road", ["short", "direct"])
async def test_the_wait_in_line_is_told_whichever_road_goes_on(
    make_db: Any, backend: Backend, road: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=20)
    await _warm(db)
    pool = db.engine.sync_engine.pool
    record = await pool.take_awaited()
    if road == "direct":  # what the short way finds when it has its connection is left to the other
        monkeypatch.setattr(type(pool._dialect), "is_ready", lambda *_: False)
    waiting = asyncio.create_task(db.fetch_value(_ASK, {"n": "1"}))
    await _until(lambda: pool.waiting_count() == 1)
    pool.watcher.waits.clear()
    began = perf_counter()
    await asyncio.sleep(0.05)
    waited = perf_counter() - began
    pool.give_back(record)
    assert await waiting == "1"
    assert max(pool.watcher.waits) >= waited


async def test_a_connection_of_a_pool_that_was_replaced_meanwhile_stays_its_own(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited in the old pool's line gives nothing to the new one, which would lend more than its size."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=20)
    await _warm(db)
    old = db.engine.sync_engine.pool
    record = await old.take_awaited()
    monkeypatch.setattr(type(old._dialect), "is_ready", lambda *_: False)
    waiting = asyncio.create_task(db.fetch_value(_ASK, {"n": "1"}))
    await _until(lambda: old.waiting_count() == 1)
    await db.engine.dispose()
    old.give_back(record)
    assert await waiting == "1"
    new = db.engine.sync_engine.pool
    assert new is not old
    assert len(new._pool.queue) <= len(new._places)
    assert await db.fetch_value(_ASK, {"n": "5"}) == "5"
    assert _is_whole(db)
    await spawn(old.dispose)


async def test_who_listens_meanwhile_hears_of_the_statement(make_db: Any, backend: Backend) -> None:
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=20)
    await _warm(db)
    pool = db.engine.sync_engine.pool
    record = await pool.take_awaited()
    waiting = asyncio.create_task(db.fetch_value(_ASK, {"n": "1"}))
    await _until(lambda: pool.waiting_count() == 1)
    hears = _HearsStatements()
    db.hooks.add(hears)
    pool.give_back(record)
    assert await waiting == "1"
    assert hears.told == 1


async def test_a_call_that_is_listened_to_waits_in_a_coroutine(
    make_db: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what fails is bridged: the control."""
    db = make_db(pool_size=1, max_overflow=0)
    await _warm(db)
    db.hooks.add(hears := _HearsEnds())
    bridged: list[str] = []

    async def noted(function: Any, *given: Any) -> Any:
        bridged.append(function.__name__)
        return await spawn(function, *given)

    monkeypatch.setattr(statements, "spawn", noted)
    me = "test_a_call_that_is_listened_to_waits_in_a_coroutine"
    assert await db.fetch_value(_ASK, {"n": "1"}) == "1"
    assert await db.fetch_value(sa.select(sa.literal("2"))) == "2"
    assert hears.told == [(me, None), ("fetch_value", None)] * 2
    assert bridged == []
    hears.told.clear()
    with pytest.raises(PrefiqDbError):
        await db.fetch_value("select nothing_of_this_name")
    assert hears.told == [(me, None), ("fetch_value", ErrorKind.SCHEMA)]
    assert bridged == ["_carry_out"]


async def test_a_cancelled_call_is_told_as_cancelled(make_db: Any, backend: Backend) -> None:
    db = make_db(pool_size=1, max_overflow=0)
    await _warm(db)
    db.hooks.add(hears := _HearsEnds())
    call = asyncio.create_task(db.fetch_value(slow_read(backend)))
    await _until(lambda: db.stats().pool.checked_out == 1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    assert hears.told[1:] == [("fetch_value", ErrorKind.CANCELLED)]
    assert _is_whole(db)
