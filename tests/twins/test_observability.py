"""What the database layer says by itself: statistics, slow statements, leaks, budgets and events."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from prefiq_db import Database, PrefiqDbError, RetryPolicy, bootstrap
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    PoolTimeoutError,
    SerializationError,
    StatementBudgetError,
    StatementCancelledError,
    UniqueViolationError,
)
from prefiq_db.events import (
    AttemptFailed,
    CallFinished,
    CallStarted,
    ConnectionCheckedIn,
    ConnectionCheckedOut,
    ConnectionLeaked,
    ConnectionLost,
    ConnectionOpened,
    ConnectionUnleaked,
    Listener,
    PoolTimedOut,
    StatementFailed,
    StatementFinished,
    StatementStarted,
    TransactionFinished,
)
from prefiq_db.pool.vetting import LOST_REASONS
from prefiq_db.pool.watcher import ConnectionWatcher
from prefiq_db.reports import PoolStats
from tests.conftest import Backend
from tests.twins.harness import Harness, drive
from tests.twins.support import is_sleeping, is_waiting_for_lock, session_id, slow_read
from tests.twins.test_retries import QUICK, WAYS, repeated

HERE = Path(__file__).name
NOON = datetime(2020, 1, 1, 12)
AGAIN = ErrorClass(ErrorKind.SERIALIZATION, transient=True, retry_transaction=True)


class Thing(orm.declarative_base()):  # type: ignore[misc]
    __tablename__ = "thing"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


class Recorder(Listener):
    """Keeps every event, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def of(self, *kinds: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    def _keep(self, event: Any) -> None:
        self.events.append(event)

    statement_started = statement_finished = statement_failed = _keep
    call_started = call_finished = attempt_failed = transaction_finished = _keep
    connection_opened = connection_lost = connection_checked_out = connection_checked_in = _keep
    stream_finished = _keep
    pool_timed_out = connection_leaked = connection_unleaked = _keep


async def _make_items(db: Any) -> None:
    await db.execute("create table item (id integer primary key, qty integer not null)")
    await db.execute_many("insert into item (id, qty) values (:id, :qty)", [{"id": n, "qty": n} for n in range(1, 6)])


def _watcher(db: Any) -> ConnectionWatcher:
    engine = db.engine
    watcher = getattr(engine, "sync_engine", engine).dialect.watcher
    assert isinstance(watcher, ConnectionWatcher)
    return watcher


# --- events --------------------------------------------------------------------------------------


async def test_one_statement_tells_its_whole_story(make_db: Any) -> None:
    """Call, checkout, statement and checkin, in order, with names, line, counts and no value."""
    db = make_db(pool_size=1)
    await _make_items(db)
    recorder = db.hooks.add(Recorder())
    await db.using(tags={"route": "/items"}).fetch_all("select id from item where qty > :least", {"least": 2})
    kinds = [type(event) for event in recorder.events]
    assert kinds == [
        CallStarted,
        ConnectionCheckedOut,
        StatementStarted,
        StatementFinished,
        ConnectionCheckedIn,
        CallFinished,
    ]
    call, _, started, finished, _, ended = recorder.events
    assert (call.verb, ended.verb, ended.attempts, ended.kind) == ("fetch_all", "fetch_all", 1, None)
    assert started.call_id == finished.call_id == call.call_id == ended.call_id
    assert (finished.summary, finished.operation, finished.tables) == ("SELECT item", "SELECT", ("item",))
    assert finished.parameters == {"least": "<int>"}
    assert finished.tags == {"route": "/items"}
    assert finished.transaction_id is None
    assert finished.origin is not None
    assert (Path(finished.origin.file).name, finished.origin.function) == (
        HERE,
        "test_one_statement_tells_its_whole_story",
    )
    assert len(finished.fingerprint) == 16
    assert finished.duration_seconds > 0


async def test_a_transaction_tells_its_outcome_and_its_statements_its_id(make_db: Any) -> None:
    """Committed and rolled back; the id joins statements and end."""
    db = make_db()
    await _make_items(db)
    recorder = db.hooks.add(Recorder())
    async with db.transaction() as tx:
        await tx.execute("update item set qty = 0 where id = 1")
    with pytest.raises(KeyError):
        async with db.transaction() as tx:
            await tx.execute("update item set qty = 0 where id = 2")
            raise KeyError
    first, second = recorder.of(TransactionFinished)
    assert (first.outcome, second.outcome) == ("committed", "not committed")
    assert [event.transaction_id for event in recorder.of(StatementFinished)] == [
        first.transaction_id,
        second.transaction_id,
    ]
    assert Path(first.origin.file).name == HERE


async def test_a_core_statement_names_its_tables_and_an_orm_one_its_line(make_db: Any) -> None:
    """No parser is needed for Core, and what goes through engine or session() is told as well."""
    db = make_db()
    await _make_items(db)
    items = sa.Table("item", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("qty", sa.Integer))
    recorder = db.hooks.add(Recorder())
    await db.execute(items.insert().from_select(["id", "qty"], sa.select(items.c.id + 100, items.c.qty)))
    async with db.session() as session:
        await session.execute(sa.select(items))
    insert, select = recorder.of(StatementFinished)
    assert (insert.summary, select.summary) == ("INSERT item SELECT item", "SELECT item")
    assert select.call_id is None
    assert Path(select.origin.file).name == HERE


async def test_a_failed_statement_and_its_retries_are_one_call(make_db: Any, backend: Backend) -> None:
    """Each attempt is told, and the call ends once, with the number of attempts."""
    db = make_db(pool_size=1, max_overflow=0)
    await _make_items(db)
    recorder = db.hooks.add(Recorder())
    with pytest.raises(PrefiqDbError):
        await db.execute("insert into item (id, qty) values (1, 1)")
    (failed,) = recorder.of(StatementFailed)
    (ended,) = recorder.of(CallFinished)
    assert (failed.kind.value, ended.kind.value, ended.attempts) == ("unique", "unique", 1)
    assert failed.code == ended.code
    assert recorder.of(AttemptFailed) == []


async def test_an_event_says_what_the_caller_is_told(make_db: Any, backend: Backend) -> None:
    """One judgement: whoever stopped the statement, a limit of ours or somebody else."""
    db = make_db(retry=RetryPolicy(attempts=1))
    await _make_items(db)
    recorder = db.hooks.add(Recorder())
    for limit, statement in ((0.2, slow_read(backend)), (9, "insert into item (id, qty) values (1, 1)")):
        with pytest.raises(PrefiqDbError) as caught:
            await db.using(timeout=limit).fetch_all(statement)
        assert recorder.of(StatementFailed)[-1].kind is caught.value.kind
    with pytest.raises(StatementCancelledError):
        async with db.transaction() as tx:
            cancel = await _canceller(tx, backend)
            with _from_outside(cancel):
                await tx.fetch_all(slow_read(backend))
    assert [event.kind for event in recorder.of(StatementFailed)][-1] is ErrorKind.CANCELLED


async def _canceller(tx: Any, backend: Backend) -> Callable[[], Any]:
    """Return what stops the statement that runs in *tx*, if there is one."""
    server = backend.server
    if server is None:
        connection = getattr(tx.connection, "sync_connection", tx.connection).connection
        driver = connection.driver_connection
        return getattr(driver, "_conn", driver).interrupt  # type: ignore[no-any-return]
    session = await session_id(tx, backend)
    stop = {"postgresql": f"select pg_cancel_backend({session})", "mariadb": f"kill query {session}"}[backend.name]
    return lambda: drive(is_sleeping(backend, session)) and server.execute(stop)


@contextlib.contextmanager
def _from_outside(act: Callable[[], Any]) -> Iterator[None]:
    """Do it in another thread, again and again until the block ends."""
    over = threading.Event()

    def acting() -> None:
        while not over.wait(0.05):
            act()

    thread = threading.Thread(target=acting)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("way", WAYS)
async def test_statements_of_a_repeated_transaction_say_so(make_db: Any, way: str) -> None:
    """In their events and in the statistics, those that fail, too; the next transaction starts at 0 again."""
    db = make_db(pool_size=1, max_overflow=0, retry=QUICK)
    await _make_items(db)
    recorder, calls = db.hooks.add(Recorder()), []

    async def body(tx: Any) -> None:
        calls.append(await tx.fetch_value("select count(*) from item"))
        with contextlib.suppress(UniqueViolationError):
            async with tx.transaction():
                await tx.execute("insert into item (id, qty) values (1, 1)")
        if len(calls) < 3:
            raise SerializationError("again", classification=AGAIN)

    await repeated(db, way, body)
    assert [event.retry_number for event in recorder.of(StatementFinished)] == [0, 1, 2]
    assert [event.retry_number for event in recorder.of(StatementFailed)] == [0, 1, 2]
    repeats = {entry.summary: entry.retries for entry in db.stats().statements}
    assert (repeats["SELECT item"], repeats["INSERT item"]) == (2, 2)
    await db.fetch_value("select count(*) from item")
    assert recorder.of(StatementFinished)[-1].retry_number == 0


async def test_a_removed_listener_hears_nothing_more(make_db: Any) -> None:
    db = make_db()
    recorder, heard = db.hooks.add(Recorder()), []
    keep = db.hooks.after(heard.append)
    await db.fetch_value("select 1")
    before = (len(recorder.events), len(heard))
    db.hooks.remove(recorder)
    db.hooks.remove(keep)
    await db.fetch_value("select 1")
    assert (len(recorder.events), len(heard)) == before


# --- statistics ----------------------------------------------------------------------------------


async def test_top_statements_are_grouped_by_shape(make_db: Any) -> None:
    """Calls, errors, rows and times per fingerprint; literals and lengths of lists don't make new ones."""
    db = make_db()
    await _make_items(db)
    for number in range(1, 4):
        await db.fetch_all(f"select id from item where qty = {number}")
    with pytest.raises(PrefiqDbError):
        await db.execute("insert into item (id, qty) values (1, 1)")
    stats = db.stats()
    selects = [entry for entry in stats.statements if entry.summary == "SELECT item"]
    (select,) = selects
    assert (select.calls, select.errors, select.statement) == (3, 0, "select id from item where qty = ?")
    assert 0 < select.mean_seconds <= select.p95_seconds <= select.max_seconds
    assert select.origin is not None
    assert HERE in select.origin
    assert stats.durations["SELECT item"].count == 3
    assert {kind.value: count for kind, count in stats.errors.items()} == {"unique": 1}
    assert [entry.total_seconds for entry in stats.statements] == sorted(
        (entry.total_seconds for entry in stats.statements), reverse=True
    )


async def test_lists_of_any_length_are_one_statement(make_db: Any) -> None:
    """Also Core's, whose values have their types on PostgreSQL: ``?::VARCHAR``."""
    db = make_db()
    await db.execute("create table item (id integer, word varchar(9), at timestamp null)")
    names = ("id", sa.Integer()), ("word", sa.String(9)), ("at", sa.DateTime())
    item = sa.table("item", *(sa.column(name, kind) for name, kind in names))
    for length in range(1, 9):
        words = [f"word {number}" for number in range(length)]
        found = item.c.word.in_(words) & item.c.id.in_(range(length)) & item.c.at.not_in([NOON] * length)
        await db.fetch_all(sa.select(item.c.id).where(found))
        await db.fetch_all(sa.select(item.c.id).where(sa.tuple_(item.c.id, item.c.word).in_([(1, "a")] * length)))
    assert [entry.calls for entry in db.stats().statements if entry.summary == "SELECT item"] == [8, 8]


async def test_a_flush_is_the_applications(make_db: Any) -> None:
    """What the ORM sends by itself, through functions that SQLAlchemy makes, has the line that made it send."""
    db = make_db()
    await db.execute("create table thing (id integer primary key, name varchar(9))")
    recorder = db.hooks.add(Recorder())
    async with db.session() as session:
        session.add(Thing(id=1, name="one"))
        await session.commit()
        thing = await session.get(Thing, 1)
        await session.delete(thing)
        await session.flush()
        await session.rollback()
    sent = recorder.of(StatementFinished)
    assert {event.operation for event in sent} == {"INSERT", "SELECT", "DELETE"}
    assert {event.origin.function for event in sent} == {"test_a_flush_is_the_applications"}
    async with db.session() as session, session.begin():
        await session.get(Thing, 1)
        assert [HERE in holder.origin for holder in db.stats().holders] == [True]


async def test_statistics_stay_bounded(make_db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that makes up statements fills the last place, not the memory."""
    monkeypatch.setattr("prefiq_db.insight.statistics.MOST_FINGERPRINTS", 10)
    monkeypatch.setattr("prefiq_db.insight.statistics.MOST_SUMMARIES", 5)
    monkeypatch.setattr("prefiq_db.insight.statement_observer._MOST_TEXTS", 8)
    db = make_db()
    for number in range(40):
        await db.fetch_value(f"select 1 as column_{number} from (select 1 as x) table_{number}")
    stats = db.stats()
    observer = _watcher(db) and getattr(db.engine, "sync_engine", db.engine).dialect.observer
    assert len(stats.durations) <= 6
    assert len(stats.statements) <= 11
    assert len(observer._known) <= 8
    assert sum(entry.calls for entry in stats.statements) == stats.statement_count


async def test_the_pool_tells_how_it_is(make_db: Any, harness: Harness) -> None:
    """Opened, waited, used, timed out, pending: our own seam, for SQLAlchemy has no event there."""
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=0.05)
    recorder = db.hooks.add(Recorder())
    await db.open()
    async with db.transaction() as tx:
        await tx.fetch_value("select 1")
        (refused,) = await _from_elsewhere(harness, lambda: db.using(timeout=5).fetch_value("select 1"))
        assert isinstance(refused, PoolTimeoutError)
        # The message names who has them: age, task or thread, line, last statement.
        text = str(refused)
        assert HERE in text
        assert "SELECT" in text
        assert ("thread " if harness.world == "sync" else "task ") in text
        (holder,) = db.stats().holders
        assert (holder.summary, holder.leaked) == ("SELECT", False)
    pool = db.stats().pool
    assert (pool.opened_count, pool.timeout_count, pool.pending, pool.checked_out) == (1, 1, 0, 0)
    assert pool.create.count == 1
    assert pool.wait.count == pool.use.count == 2
    assert len(recorder.of(PoolTimedOut)) == 1
    assert len(recorder.of(ConnectionOpened)) == 1
    assert db.stats().holders == ()


async def _from_elsewhere(harness: Harness, work: Callable[[], Any]) -> list[Any]:
    """Run *work* in a thread or task that did not inherit the transaction."""
    if harness.world == "sync":
        return await harness.together(work, return_exceptions=True)
    task = contextvars.Context().run(asyncio.ensure_future, work())
    return list(await asyncio.gather(task, return_exceptions=True))


async def test_a_connection_thrown_away_says_why(make_db: Any) -> None:
    db = make_db(pool_size=1)
    recorder = db.hooks.add(Recorder())
    await db.fetch_value("select 1")
    engine = getattr(db.engine, "sync_engine", db.engine)
    engine.dialect.limits = replace(engine.dialect.limits, max_age_seconds=0.0)
    for holder in range(2):
        await db.fetch_value("select 1 + :n", {"n": holder})
        _expire(engine)
    await db.fetch_value("select 1")
    assert "age" in db.stats().pool.lost
    assert recorder.of(ConnectionLost)[0].reason == "age"


@pytest.mark.parametrize("told", [ConnectionLost, PoolStats])
def test_every_reason_for_losing_a_connection_is_documented(told: type) -> None:
    documented = re.search(r"reason[^`]*((?:``[a-z ]+``[,\sor]*)+)", told.__doc__ or "")
    assert documented is not None
    assert set(re.findall("``([a-z ]+)``", documented[1])) == LOST_REASONS


def _expire(engine: Any) -> None:
    queue = engine.pool._pool
    for record in list(queue.queue if hasattr(queue, "queue") else queue._queue._queue):
        engine.dialect.session_in(record.info).expires_at = 0.0


# --- slow statements -----------------------------------------------------------------------------


async def test_a_slow_statement_is_logged_once_in_a_while(make_db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Timing, wait, rows, retries, line and text, at WARNING; a thousand of them do not flood."""
    db = make_db(slow_query_seconds=0.0000001)
    slow = getattr(db.engine, "sync_engine", db.engine).dialect.observer.slow
    slow._clock = lambda: 1000.0  # a thousand may take longer than the quiet time
    await db.open()
    before = db.stats().slow_count
    caplog.clear()  # what SQLAlchemy asks a new server is slow by this measure, too
    with caplog.at_level(logging.WARNING, logger="prefiq_db.slow"):
        for number in range(1000):
            await db.fetch_value(f"select {number}, 'planted'")
    (record,) = [record for record in caplog.records if record.name == "prefiq_db.slow"]
    assert record.levelno == logging.WARNING
    for field in (
        "database",
        "summary",
        "fingerprint",
        "duration_seconds",
        "wait_seconds",
        "rows",
        "retries",
        "source",
    ):
        assert hasattr(record, field), field
    assert HERE in record.source  # type: ignore[attr-defined]
    assert "planted" not in record.getMessage()
    assert db.stats().slow_count - before == 1000


async def test_what_was_held_back_is_told_later(make_db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """When the quiet time is over, the next record counts those that were not written."""
    db = make_db(slow_query_seconds=0.0000001)
    slow = getattr(db.engine, "sync_engine", db.engine).dialect.observer.slow
    now = 1000.0
    slow._clock = lambda: now
    await db.open()
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="prefiq_db.slow"):
        for _ in range(5):
            await db.fetch_value("select 1")
        now += 11.0
        await db.fetch_value("select 1")
    records = [record for record in caplog.records if record.name == "prefiq_db.slow"]
    assert [record.held_back for record in records] == [0, 4]  # type: ignore[attr-defined]


async def test_a_level_counts_from_the_next_statement_on(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever switches DEBUG on while statements run sees the next one, and none after switching it off."""
    name = "prefiq_db.statements"

    def lines() -> int:
        return sum(record.name == name for record in caplog.records)

    seen = []
    for level in (logging.INFO, logging.DEBUG, logging.INFO, logging.DEBUG):
        with caplog.at_level(level, logger=name):
            for _ in range(2):
                await db.fetch_value("select 1")
        seen.append(lines())
    assert seen == [0, 2, 2, 4]
    logging.getLogger(name).disabled = True
    try:
        with caplog.at_level(logging.DEBUG, logger=name):
            await db.fetch_value("select 1")
    finally:
        logging.getLogger(name).disabled = False
    assert lines() == 4


async def test_a_fast_statement_is_not_logged(make_db: Any, caplog: pytest.LogCaptureFixture) -> None:
    db = make_db(slow_query_seconds=60)
    with caplog.at_level(logging.DEBUG, logger="prefiq_db.slow"):
        await db.fetch_value("select 1")
    assert not [record for record in caplog.records if record.name == "prefiq_db.slow"]
    assert db.stats().slow_count == 0


# --- leaks ---------------------------------------------------------------------------------------


async def test_a_leak_names_the_applications_line_and_is_taken_back(
    make_db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """After leak_after_seconds a warning with file and line, once; a note when it came back after all."""
    db = make_db(leak_after_seconds=3600)
    recorder = db.hooks.add(Recorder())
    watcher = _watcher(db)
    caplog.set_level(logging.WARNING, logger="prefiq_db.leaks")
    async with db.transaction() as tx:
        await tx.fetch_value("select 1")
        watcher.look(_later(3599))
        assert recorder.of(ConnectionLeaked) == [], "no leak, no noise"
        watcher.look(_later(3601))
        watcher.look(_later(3700))
        assert db.stats().holders[0].leaked
    (leaked,), (unleaked,) = recorder.of(ConnectionLeaked), recorder.of(ConnectionUnleaked)
    assert Path(leaked.origin.file).name == HERE
    assert leaked.origin.function == "test_a_leak_names_the_applications_line_and_is_taken_back"
    assert (leaked.summary, leaked.collected) == ("SELECT", False)
    assert unleaked.origin == leaked.origin
    warned = [record for record in caplog.records if record.name == "prefiq_db.leaks"]
    assert len(warned) == 2
    assert all(HERE in record.getMessage() for record in warned)
    assert db.stats().leak_count == 1


def _later(seconds: float) -> float:
    return time.monotonic() + seconds


async def test_who_waits_for_a_lock_is_no_leak(make_db: Any, backend: Backend, harness: Harness) -> None:
    """A statement under way is no leak, however long it takes; who does nothing after it is, after the same time."""
    if backend.server is None:
        pytest.skip("SQLite's writers wait in BEGIN, no longer than lock_timeout_seconds")
    db = make_db(leak_after_seconds=3600)
    await _make_items(db)
    recorder, watcher = db.hooks.add(Recorder()), _watcher(db)
    waiting: list[int] = []
    locked = harness.event()

    async def waits() -> bool:
        return bool(waiting) and await is_waiting_for_lock(backend, waiting[0])

    async def hold() -> None:
        async with db.transaction() as tx:
            await tx.execute("update item set qty = 1 where id = 1")
            locked.set()
            await harness.until(waits)
            watcher.look(_later(3601))
            (leaked,) = recorder.of(ConnectionLeaked)  # itself: it does nothing, and keeps the other waiting
            assert leaked.origin.function.endswith("hold")

    async def wait() -> None:
        await locked.wait()
        async with db.transaction() as tx:
            waiting.append(await session_id(tx, backend))
            await tx.execute("update item set qty = 2 where id = 1")
            watcher.look(_later(3700))
            assert len(recorder.of(ConnectionLeaked)) == 1
            watcher.look(_later(3601 + 3700))
            assert recorder.of(ConnectionLeaked)[-1].origin.function.endswith("wait")

    await harness.together(hold, wait)


async def test_the_watchdog_looks_by_itself(make_db: Any, harness: Harness) -> None:
    """A real leak, a real thread: it is found without anybody asking."""
    db = make_db(leak_after_seconds=0.05)
    recorder = db.hooks.add(Recorder())

    async def found() -> bool:
        return bool(recorder.of(ConnectionLeaked))

    async with db.transaction() as tx:
        await tx.fetch_value("select 1")
        await harness.until(found)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_connection_that_nobody_gave_back_is_reported(make_db: Any, world: str) -> None:
    """Garbage-collected unclosed: reported with the line that took it."""
    db = make_db(pool_size=1, max_overflow=1)
    recorder = db.hooks.add(Recorder())
    await db.open()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # SQLAlchemy says so too, without the line
        connection = await db.engine.connect() if world == "async" else db.engine.connect()
        del connection
        gc.collect()
    (leaked,) = recorder.of(ConnectionLeaked)
    assert leaked.collected
    assert Path(leaked.origin.file).name == HERE
    assert await db.fetch_value("select 1") == 1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.sync
def test_a_connection_that_was_lost_while_it_was_taken_is_a_moment_old(backend: Backend) -> None:
    """An interruption before the time of its checkout was noted leaves none: that isn't as long as the machine runs."""
    with Database(backend.url, pool_size=1, max_overflow=1) as db:
        recorder = db.hooks.add(Recorder())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sa.exc.SAWarning)
            connection = db.engine.connect()
            connection.dialect.session_of(connection._dbapi_connection).checkout.checked_out_at = 0.0
            del connection
            gc.collect()
        (leaked,) = recorder.of(ConnectionLeaked)
        assert leaked.age_seconds == 0.0


# --- budgets -------------------------------------------------------------------------------------


async def test_a_budget_is_kept_or_fails_with_the_list(make_db: Any) -> None:
    """expect() passes within its limit and names statements and lines beyond it."""
    db = make_db()
    await _make_items(db)
    async with db.expect(max_statements=2) as budget:
        await db.fetch_value("select 1")
        await db.fetch_value("select 2")
    assert budget.count == 2
    with pytest.raises(StatementBudgetError, match="3 statements where at most 2") as caught:
        async with db.expect(max_statements=2):
            for _ in range(3):
                await db.fetch_value("select count(*) from item")
    assert "3 x SELECT item" in str(caught.value)
    assert HERE in str(caught.value)
    assert isinstance(caught.value, AssertionError)


async def test_the_line_of_a_last_statement_is_its_callers(make_db: Any) -> None:
    """In the async world COMMIT travels in a task of its own, which nobody's line has called."""
    db = make_db()
    await _make_items(db)
    with pytest.raises(StatementBudgetError) as caught:
        async with db.expect(max_statements=0), db.transaction() as tx:
            await tx.execute("update item set qty = 3", last=True)
    assert HERE in str(caught.value)
    assert "in test_the_line_of_a_last_statement_is_its_callers" in str(caught.value)


async def test_an_n_plus_one_is_found_by_line_and_shape(make_db: Any) -> None:
    """The same statement from the same line again and again; different lines, or different statements, are fine."""
    db = make_db()
    await _make_items(db)
    async with db.no_n_plus_one():
        await db.fetch_value("select qty from item where id = :id", {"id": 1})
        await db.fetch_value("select qty from item where id = :id", {"id": 2})
        await db.fetch_value("select qty from item where id = :id", {"id": 3})
    with pytest.raises(StatementBudgetError, match="N\\+1"):
        async with db.no_n_plus_one():
            for row in await db.fetch_all("select id from item"):
                await db.fetch_value("select qty from item where id = :id", {"id": row.id})


async def test_an_error_inside_a_budget_goes_on(make_db: Any) -> None:
    """A block that fails by itself is not covered by the budget's complaint."""
    db = make_db()
    with pytest.raises(KeyError):
        async with db.expect(max_statements=0):
            await db.fetch_value("select 1")
            raise KeyError


# --- comments, plans, all databases ---------------------------------------------------------------


async def test_tags_go_along_as_a_comment_where_that_is_asked_for(make_db: Any, backend: Backend) -> None:
    """sqlcommenter at the end, percent-encoded; events and statistics see the text without it."""
    db = make_db(sql_comments=True, pool_size=1, max_overflow=0)
    await _make_items(db)
    heard: list[Any] = []
    db.hooks.after(heard.append)
    view = db.using(tags={"route": "/items/%", "app": "shop"})
    assert await view.fetch_value("select qty from item where id = :id", {"id": 3}) == 3
    assert "/*" not in heard[-1].statement
    if backend.name == "postgresql":
        shown = await view.fetch_value("select query from pg_stat_activity where pid = pg_backend_pid()")
        assert shown.endswith("/*app='shop',route='%2Fitems%2F%25'*/")
    if backend.name == "mariadb":
        shown = await view.fetch_value("select info from information_schema.processlist where id = connection_id()")
        assert shown.endswith("/*app='shop',route='%2Fitems%2F%25'*/")
    with pytest.raises(PrefiqDbError):
        db.using(tags={"route": "*/ drop table item"})


async def test_without_the_setting_nothing_is_added(make_db: Any, backend: Backend) -> None:
    db = make_db()
    if backend.name == "postgresql":
        view = db.using(tags={"app": "shop"})
        assert "shop" not in await view.fetch_value("select query from pg_stat_activity where pid = pg_backend_pid()")
    else:
        assert await db.using(tags={"app": "shop"}).fetch_value("select 1") == 1


async def test_the_plan_of_a_slow_select_is_logged_once(make_db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Opt-in, SELECT only, once per kind and hour, without values."""
    db = make_db(explain_slow_queries=True, slow_query_seconds=0.0000001)
    await _make_items(db)
    caplog.set_level(logging.INFO, logger="prefiq_db.slow")
    caplog.clear()
    for secret in (987654, 987655):
        await db.fetch_all(f"select id from item where qty = {secret} or id = :id", {"id": 1})
    await db.execute("update item set qty = 1 where id = 1")
    plans = [record.getMessage() for record in caplog.records if record.getMessage().startswith("plan of")]
    (plan,) = plans
    assert "item" in plan.lower()
    assert "98765" not in plan


async def test_plans_are_not_asked_for_by_default(make_db: Any, caplog: pytest.LogCaptureFixture) -> None:
    db = make_db(slow_query_seconds=0.0000001)
    caplog.set_level(logging.DEBUG, logger="prefiq_db.slow")
    await db.fetch_all("select 1")
    assert not [record for record in caplog.records if record.getMessage().startswith("plan of")]


def test_one_listener_hears_all_databases_of_an_application(tmp_path: Path) -> None:
    """``hooks`` of the container registers on every database at once."""
    arguments = {
        "database": {"url": f"sqlite:///{tmp_path / 'a.db'}"},
        "databases": {"analytics": {"url": f"sqlite:///{tmp_path / 'b.db'}"}},
    }
    with bootstrap(arguments=arguments, environ={}, directory=tmp_path) as app:
        heard: list[str] = []
        app.resolve("hooks").after(lambda event: heard.append(event.database))
        app.resolve("db").fetch_value("select 1")
        app.resolve("db.analytics").fetch_value("select 1")
    assert heard == ["main", "analytics"]
