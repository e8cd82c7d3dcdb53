"""``stream``: many rows in little memory, and a connection that is whole again whatever happens."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import RetryPolicy
from prefiq_db.dialects.mysql_streams import MysqlStreams
from prefiq_db.errors import (
    AvailabilityError,
    ClosedError,
    ErrorKind,
    MappingError,
    NotCommittedError,
    PrefiqDbError,
    ReadOnlyError,
    StatementRefusedError,
    StatementTimeoutError,
    TransactionBusyError,
    UsageError,
)
from prefiq_db.events import (
    CallFinished,
    CallStarted,
    ConnectionLeaked,
    StatementFinished,
    StreamFinished,
    TransactionFinished,
)
from prefiq_db.integrations.operations import Operation, OperationListener
from prefiq_db.transaction import Outcome
from prefiq_db.types import Money
from tests.conftest import Backend
from tests.twins.harness import Harness
from tests.twins.support import kill_session, session_id, slow_read
from tests.twins.test_cancellation import _cancel_everywhere
from tests.twins.test_observability import Recorder, _later, _watcher
from tests.twins.test_silent_frames import ALL, telling

metadata = sa.MetaData()
stock = sa.Table(
    "stock",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", sa.String(20), nullable=False),
    sa.Column("price", Money, nullable=False),
)
ROWS = 2500
IN_ORDER = "select id, sku, price from stock order by id"
# Six million rows, each of which costs the server nothing: far more than fits between it and us.
ENDLESS = "select a.id from stock a, stock b where b.id >= 0"
# Every database has these words, and one statement takes no time.
_DIGITS = " union all ".join(f"select {digit} as d" for digit in range(10))
_NUMBER = "a.d + 10 * b.d + 100 * c.d + 1000 * e.d"
FILL = (
    "insert into stock (id, sku, price) select n, replace('A#', '#', cast(n as char(5))), 0"
    f" from (select {_NUMBER} as n from ({_DIGITS}) a cross join ({_DIGITS}) b cross join ({_DIGITS}) c"
    f" cross join ({_DIGITS}) e) as numbers where n < :rows"
)
# Little of it is on its way when the server stops sending.
WIDE = "repeat('x', 4000) as wide"
COUNT = "select count(*) from stock"
ONCE = RetryPolicy(attempts=1)

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("postgresql", "mariadb")],
    indirect=True,
)
async_only = pytest.mark.parametrize(
    "world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True
)


@dataclasses.dataclass(frozen=True)
class Item:
    id: int
    sku: str
    price: Any


@pytest.fixture
def full(make_db: Any) -> Callable[..., Awaitable[Any]]:
    """Make a database with a table of 2,500 rows: ``await full()``; its pool has a single connection."""

    async def make(**fields: Any) -> Any:
        db = make_db(**{"pool_size": 1, "max_overflow": 0, "pool_timeout_seconds": 5, **fields})
        await db.execute(sa.schema.CreateTable(stock))
        await db.execute(FILL, {"rows": ROWS})
        return db

    return make


async def is_whole(db: Any) -> bool:
    """The pool has its connection back, and that reads what was asked, not what is left of something else."""
    return db.stats().pool.checked_out == 0 and await db.fetch_value(COUNT) == ROWS


# --- rows ----------------------------------------------------------------------------------------


async def test_a_stream_gives_what_fetch_all_gives(full: Any) -> None:
    """Text and Core, Rows by name, ``types=`` and ``into=``: the same rows, in the same types."""
    db = await full()
    text = "select id, sku, price from stock where id < 900 order by id"
    core = sa.select(stock).where(stock.c.id < 900).order_by(stock.c.id)
    ways: list[tuple[Any, dict[str, Any]]] = [
        (text, {}),
        (core, {}),
        (text, {"types": {"price": Money}}),
        (text, {"into": dict}),
        (core, {"into": Item}),
        (text, {"types": {"price": Money}, "into": Item}),
    ]
    for statement, options in ways:
        async with db.stream(statement, batch_size=400, **options) as rows:
            got = [row async for row in rows]
        expected = await db.fetch_all(statement, **options)
        assert got == expected
        assert len(got) == 900
        assert type(got[0]) is type(expected[0])
        if "into" not in options:
            assert list(map(type, got[0])) == list(map(type, expected[0]))
    async with db.stream("select id, sku from stock where id = :id", {"id": 7}) as rows:
        assert [(row.id, row.sku) async for row in rows] == [(7, "A7")]
    assert await is_whole(db)


@pytest.mark.parametrize(
    ("size", "sizes"), [(1000, [1000, 1000, 500]), (1250, [1250, 1250]), (2500, [2500]), (9000, [2500])]
)
async def test_batches_are_lists_of_the_size_that_was_asked_for(full: Any, size: int, sizes: list[int]) -> None:
    """Only the last one may be shorter, and a row that was taken alone is in none."""
    db = await full()
    async with db.stream(IN_ORDER, batch_size=size) as rows:
        batches = [batch async for batch in rows.batches()]
    assert [len(batch) for batch in batches] == sizes
    assert [row.id for batch in batches for row in batch] == list(range(ROWS))
    async with db.stream(IN_ORDER, batch_size=size) as rows:
        assert (await anext(rows)).id == 0
        rest = [batch async for batch in rows.batches()]
    assert [len(batch) for batch in rest] == [sizes[0] - 1, *sizes[1:]]
    assert await is_whole(db)


async def test_nothing_found_is_an_empty_stream(full: Any) -> None:
    """No row, no batch, no error; asked again, the end is still the end."""
    db = await full()
    async with db.stream("select id from stock where id < 0") as rows:
        assert [row async for row in rows] == []
        assert [row async for row in rows] == []
        assert [batch async for batch in rows.batches()] == []
    assert await is_whole(db)


async def test_the_connection_is_free_as_soon_as_the_last_batch_is_read(full: Any) -> None:
    """Who works on the last batch holds no connection; and the transaction was one of its own."""
    db = await full()
    async with db.stream(IN_ORDER, batch_size=2000) as rows:
        assert (await anext(rows)).id == 0
        assert db.stats().pool.checked_out == 1
        async for row in rows:
            if row.id == 2001:
                assert db.stats().pool.checked_out == 0
                assert await db.fetch_value(COUNT) == ROWS


async def test_what_the_consumer_writes_goes_its_own_way(full: Any) -> None:
    """Statements in the block are committed one by one: they don't join the stream's read-only transaction."""
    db = await full(max_overflow=1)
    async with db.stream(IN_ORDER, batch_size=10) as rows:
        async for row in rows:
            await db.execute("update stock set sku = 'seen' where id = :id", {"id": row.id})
            if row.id == 3:
                break
    assert await db.fetch_value("select count(*) from stock where sku = 'seen'") == 4


# --- early ends ----------------------------------------------------------------------------------


async def _left_early(db: Any, statement: str) -> None:
    async with db.stream(statement, batch_size=10) as rows:
        async for _ in rows:
            break


async def _failing_consumer(db: Any, statement: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.stream(statement, batch_size=10) as rows:
            async for row in rows:
                _ = row.id / 0


async def _failing_mapper(db: Any, statement: str) -> None:
    with pytest.raises(MappingError):
        async with db.stream(statement, batch_size=10, into=Item) as rows:
            await anext(rows)


EARLY = {"break": _left_early, "error": _failing_consumer, "into": _failing_mapper}


@pytest.mark.parametrize("how", EARLY)
@pytest.mark.parametrize("statement", ["select id from stock where id < 100", ENDLESS], ids=["few", "endless"])
async def test_an_early_end_leaves_a_whole_pool(full: Any, how: str, statement: str) -> None:
    """A break, an error of the consumer or of ``into=``: the connection is back, and the next answer is right."""
    db = await full()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyMySQL and asyncmy warn when they skip rows that nobody read
        await EARLY[how](db, statement)
        assert await is_whole(db)


@pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
async def test_control_an_unread_reply_is_noticed(full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our care the rows would still be unread when the connection is used again."""
    db = await full()
    kept: list[Any] = []  # or its garbage would read the rest
    monkeypatch.setattr(
        MysqlStreams, "close_stream", lambda self, connection, result, seconds, *, is_last: kept.append(result)
    )
    monkeypatch.setattr(MysqlStreams, "_note_open_stream", lambda self, dbapi_connection: None)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        await _left_early(db, "select id from stock where id < 100")
        await db.fetch_value(COUNT)
    assert any("unbuffered" in str(each.message) for each in warned)


@async_only
async def test_a_cancelled_reader_leaves_a_whole_pool(full: Any, backend: Backend) -> None:
    """Cancelled at any of its awaits, also in the middle of a batch: the connection is back or closed."""
    db = await full()

    async def read() -> None:
        async with db.stream("select id from stock where id < 30", batch_size=10) as rows:
            assert len([row.id async for row in rows]) == 30

    async def check(cancelled: bool) -> None:
        assert await is_whole(db)

    assert await _cancel_everywhere(read, check) >= 3


@async_only
async def test_a_timeout_of_the_caller_ends_a_slow_batch(full: Any, backend: Backend) -> None:
    """asyncio.timeout() around a stream whose rows don't come is a timeout, and the connection doesn't stay behind."""
    db = await full()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), db.stream(slow_read(backend)) as rows:
            await anext(rows)
    assert await is_whole(db)


# --- mistakes ------------------------------------------------------------------------------------


async def test_a_stream_out_of_its_block_says_so(full: Any) -> None:
    """Before its block, after it, and for a second time: a typed error, and nothing is sent."""
    db = await full()
    rows = db.stream(IN_ORDER, batch_size=10)
    with pytest.raises(UsageError, match="use it as `with"):
        await anext(rows)
    async with rows as opened:
        iterator = aiter(opened)
        assert (await anext(iterator)).id == 0
    with pytest.raises(ClosedError, match="its block has ended"):
        await anext(iterator)
    with pytest.raises(ClosedError):
        await anext(aiter(rows.batches()))
    with pytest.raises(UsageError, match="opened once"):
        async with rows:
            pass
    assert await is_whole(db)


async def test_two_readers_at_once_are_refused(full: Any, harness: Harness) -> None:
    """One reads and another one asks in the meantime: TransactionBusyError. One after the other is fine."""
    db = await full()
    reading, asked = harness.event(), harness.event()

    def slowly(row: Any) -> Any:
        # A mapper runs while its reader holds the stream.
        return row

    stream = db.stream(IN_ORDER, batch_size=10, into=slowly)
    async with stream as rows:

        async def first() -> None:
            core = (getattr(rows, "_wrapped", None) or rows)._core
            with core._alone():
                reading.set()
                await asked.wait()

        async def second() -> None:
            await reading.wait()
            try:
                with pytest.raises(TransactionBusyError, match="used one stream at the same moment"):
                    await anext(rows)
            finally:
                asked.set()

        await harness.together(first, second)
        assert (await anext(rows)).id == 0
        (again,) = await harness.together(lambda: anext(rows))
        assert again.id == 1
    assert await is_whole(db)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "many"])
async def test_a_batch_size_is_a_number_of_rows(db: Any, size: Any) -> None:
    """Anything else is refused before the stream is opened."""
    with pytest.raises(UsageError, match="batch_size"):
        db.stream("select 1", batch_size=size)


@pytest.mark.parametrize(
    "statement", ["insert into stock (id, sku, price) values (-1, 'X', 0)", "delete from stock", sa.delete(stock)]
)
async def test_only_a_query_can_be_streamed(full: Any, statement: Any) -> None:
    """Anything else is refused at once, in a transaction too."""
    db = await full()
    with pytest.raises(StatementRefusedError, match="expected a query"):
        db.stream(statement)
    async with db.transaction() as tx:
        with pytest.raises(StatementRefusedError, match="expected a query"):
            tx.stream(statement)
    assert await is_whole(db)


_WRITING_READ = {
    "postgresql": "select nextval('numbers')",
    "mariadb": "select writes()",
}


@on_servers
async def test_the_server_refuses_a_query_that_writes(full: Any, backend: Backend) -> None:
    """A function in it may write: the stream's own transaction is READ ONLY, and the error says so."""
    db = await full(retry=ONCE)
    if backend.name == "postgresql":
        await db.execute("create sequence numbers")
    else:
        await db.execute(
            "create function writes() returns integer modifies sql data begin delete from stock; return 1; end"
        )
    with pytest.raises(ReadOnlyError):
        async with db.stream(_WRITING_READ[backend.name]) as rows:
            await anext(rows)
    assert await is_whole(db)


async def test_a_lock_needs_a_transaction_that_goes_on(full: Any) -> None:
    """FOR UPDATE outside a transaction is refused as it is with the other verbs."""
    db = await full()
    with pytest.raises(StatementRefusedError):
        async with db.stream(sa.select(stock).with_for_update()):
            pass
    assert await is_whole(db)


# --- in a transaction ----------------------------------------------------------------------------


async def test_a_stream_joins_the_transaction(full: Any, backend: Backend) -> None:
    """It sees what the transaction wrote, through ``tx`` and through ``db``; and the transaction goes on after it."""
    db = await full()
    for ambient in (False, True):
        async with db.transaction() as tx:
            await tx.execute("update stock set sku = 'mine' where id = 0")
            async with (db if ambient else tx).stream(IN_ORDER, batch_size=10) as rows:
                assert (await anext(rows)).sku == "mine"
            await tx.execute("update stock set sku = 'both' where id = 1")
        assert tx.outcome is Outcome.COMMITTED
    assert await db.fetch_value("select sku from stock where id = 1") == "both"
    assert await is_whole(db)


async def test_other_verbs_while_a_stream_is_open(full: Any, backend: Backend) -> None:
    """SQLite and PostgreSQL run them; MariaDB can't, and the error names the reason and loses nothing."""
    db = await full()
    async with db.transaction() as tx:
        async with tx.stream(IN_ORDER, batch_size=10) as rows:
            assert (await anext(rows)).id == 0
            if backend.name == "mariadb":
                for other in (lambda: tx.fetch_value("select 7"), lambda: tx.transaction().__aenter__()):
                    with pytest.raises(TransactionBusyError, match="a stream is open in this transaction"):
                        await other()
            else:
                assert await tx.fetch_value("select 7") == 7
                async with tx.transaction():
                    await tx.execute("update stock set sku = 'x' where id = 2400")
            assert [row.id async for row in rows] == list(range(1, ROWS))
            # It is read to its end.
            assert await tx.fetch_value("select 8") == 8
        await tx.execute("update stock set sku = 'end' where id = 0")
    assert await db.fetch_value("select sku from stock where id = 0") == "end"
    assert await is_whole(db)


@pytest.mark.parametrize("fails", [False, True])
async def test_the_end_of_a_transaction_closes_its_stream(full: Any, fails: bool) -> None:
    """COMMIT and ROLLBACK close it first; then it says why it gives no more rows."""
    db = await full()
    tx = db.transaction()
    stream: Any = None
    try:
        async with tx as opened:
            await opened.execute("update stock set sku = 'kept' where id = 0")
            stream = opened.stream("select id from stock order by id", batch_size=10)
            await stream.__aenter__()
            assert (await anext(stream)).id == 0
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert tx.outcome is (Outcome.NOT_COMMITTED if fails else Outcome.COMMITTED)
    with pytest.raises(ClosedError, match="transaction or savepoint"):
        for _ in range(11):
            await anext(stream)
    await stream.__aexit__(None, None, None)
    assert await db.fetch_value("select sku from stock where id = 0") == ("A0" if fails else "kept")
    assert await is_whole(db)


async def test_the_end_of_a_savepoint_closes_its_stream(full: Any) -> None:
    """What was opened in a savepoint ends with it, and the transaction around it goes on."""
    db = await full()
    async with db.transaction() as tx:
        async with tx.transaction() as inner:
            stream = inner.stream(IN_ORDER, batch_size=10)
            await stream.__aenter__()
        with pytest.raises(ClosedError):
            for _ in range(11):
                await anext(stream)
        await stream.__aexit__(None, None, None)
        assert await tx.fetch_value(COUNT) == ROWS
    assert await is_whole(db)


# --- what goes wrong at the server ---------------------------------------------------------------


@on_servers
async def test_a_connection_lost_in_the_middle_is_an_error(full: Any, backend: Backend) -> None:
    """The rows given so far stay given, the next batch raises, and nothing is read for a second time."""
    db = await full()
    recorder = db.hooks.add(Recorder())
    seen: list[int] = []
    sql = {"postgresql": "select pg_backend_pid() as me", "mariadb": "select connection_id() as me"}[backend.name]
    with pytest.raises(AvailabilityError):
        async with db.stream(f"{sql}, a.id, {WIDE} from stock a, stock b", batch_size=100) as rows:
            async for row in rows:
                if not seen:
                    kill_session(backend, row.me)
                seen.append(row.id)
    assert len(seen) >= 100
    assert len(recorder.of(StatementFinished)) == 1
    (finished,) = recorder.of(StreamFinished)
    assert (finished.rows, finished.complete) == (len(seen), False)
    assert finished.kind in (ErrorKind.CONNECTION_LOST, ErrorKind.SERVER_SHUTDOWN)
    assert await is_whole(db)


@on_servers
async def test_before_the_first_row_a_dead_connection_is_tried_again(full: Any, backend: Backend) -> None:
    """Nothing was given yet: the stream's transaction is begun anew on another connection."""
    db = await full()
    kill_session(backend, await session_id(db, backend))
    async with db.stream(IN_ORDER) as rows:
        assert len([row async for row in rows]) == ROWS
    assert await is_whole(db)


@on_servers
async def test_a_transaction_that_loses_its_connection_in_a_stream_is_not_committed(
    full: Any, backend: Backend
) -> None:
    """The stream raises, and so does a COMMIT of what is gone."""
    db = await full()
    with pytest.raises(NotCommittedError):
        async with db.transaction() as tx:
            session = await session_id(tx, backend)
            async with tx.stream(f"select {WIDE} from stock a, stock b", batch_size=100) as rows:
                await anext(rows)
                kill_session(backend, session)
                with pytest.raises(PrefiqDbError):
                    async for _ in rows:
                        pass
    assert tx.outcome is Outcome.NOT_COMMITTED
    assert await is_whole(db)


async def test_a_time_limit_is_one_for_each_batch(full: Any, backend: Backend) -> None:
    """A batch that doesn't come in time is StatementTimeoutError; the consumer's own pauses don't count."""
    db = await full(retry=ONCE)
    with pytest.raises(StatementTimeoutError):
        async with db.using(timeout=0.3).stream(slow_read(backend)) as rows:
            await anext(rows)
    assert await is_whole(db)


_FAILS_LATE = {
    "sqlite": "select abs(-9223372036854775808 + (id <> 40)) from stock order by id",
    "postgresql": "select 1 / (40 - id) from stock order by id",
    "mariadb": "select id + (select s.id from stock s where stock.id < 40 or s.id < 2 limit 2) from stock order by id",
}


async def test_an_error_of_the_server_comes_with_the_batch(full: Any, backend: Backend, harness: Harness) -> None:
    """The batches before it are given; after it the stream gives no more, and no frame of ours keeps a row."""
    if backend.name == "mariadb":
        pytest.skip("MariaDB sends no row of a statement that fails")
    db = await full(retry=ONCE)
    recorder = db.hooks.add(Recorder())
    got: list[Any] = []
    with pytest.raises(PrefiqDbError) as caught:
        async with db.stream(_FAILS_LATE[backend.name], batch_size=10) as rows:
            try:
                async for row in rows:
                    got.append(row)
            finally:
                with pytest.raises(ClosedError, match="ended with an error"):
                    await anext(rows)
    # SQLite's driver reads one row more than it gives.
    assert len(got) == (30 if backend.name == "sqlite" else 40)
    assert telling(caught.value, ALL, "9223372036854775807") == []
    (finished,) = recorder.of(StreamFinished)
    assert (finished.rows, finished.batches, finished.kind) == (len(got), len(got) // 10, caught.value.kind)
    assert await is_whole(db)


async def test_no_frame_of_ours_keeps_a_value(full: Any) -> None:
    """Neither the binds nor the rows: an error tracker would send them away."""
    db = await full()

    def refuse(row: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError) as caught:
        async with db.stream("select sku from stock where id < :top", {"top": 77123}, into=refuse) as rows:
            await anext(rows)
    assert telling(caught.value, ("prefiq_db", "sqlalchemy"), "77123", "A17") == []
    with pytest.raises(PrefiqDbError) as failed:
        async with db.stream("select nothing from stock where id < :top", {"top": 77123}):
            pass
    assert telling(failed.value, ("prefiq_db", "sqlalchemy"), "77123") == []


# --- what is told --------------------------------------------------------------------------------


async def test_a_stream_tells_its_story(full: Any) -> None:
    """One call, one statement, one transaction, and at the end how many rows it was; statistics count them."""
    db = await full()
    recorder = db.hooks.add(Recorder())
    operations: list[Operation] = []
    db.hooks.add(OperationListener(operations.append, lambda: None))
    async with db.using(tags={"route": "/export"}).stream(IN_ORDER, batch_size=1000) as rows:
        assert [len(batch) async for batch in rows.batches()] == [1000, 1000, 500]
    told = recorder.of(CallStarted, StatementFinished, TransactionFinished, StreamFinished, CallFinished)
    started, sent, ended, finished, done = told
    assert [type(each) for each in told] == [
        CallStarted, StatementFinished, TransactionFinished, StreamFinished, CallFinished
    ]  # fmt: skip
    assert (started.verb, done.verb, done.attempts, done.kind) == ("stream", "stream", 1, None)
    assert started.call_id == sent.call_id == finished.call_id == done.call_id
    assert (sent.rows, finished.rows, finished.batches, finished.complete) == (-1, ROWS, 3, True)
    assert finished.tags == {"route": "/export"}
    assert finished.transaction_id == sent.transaction_id == ended.transaction_id
    assert (finished.summary, finished.kind, ended.outcome) == ("SELECT stock", None, "committed")
    assert 0 < finished.first_row_seconds <= finished.slowest_seconds <= finished.duration_seconds
    for each in (started, sent, finished):
        assert Path(each.origin.file).name == Path(__file__).name
    (operation,) = operations  # what a span is made of
    assert (operation.verb, operation.rows, operation.kind) == ("stream", ROWS, None)
    (entry,) = [each for each in db.stats().statements if each.summary == "SELECT stock"]
    assert (entry.calls, entry.rows) == (1, ROWS)


async def test_a_stream_that_is_held_too_long_names_its_line(full: Any) -> None:
    """Reading is no leak, however long it takes; a consumer that asks for nothing holds the connection."""
    db = await full(leak_after_seconds=3600)
    watcher = _watcher(db)
    async with db.stream(IN_ORDER, batch_size=10) as rows:
        await anext(rows)
        watcher.look(_later(3599))
        assert db.stats().leak_count == 0
        watcher.look(_later(3601))
        (holder,) = db.stats().holders
        assert holder.leaked
        assert Path(str(holder.origin).partition(":")[0]).name == Path(__file__).name
    assert db.stats().leak_count == 1
    assert await is_whole(db)


async def _enter(block: Any, kept: list[Any]) -> Any:
    """Enter *block* by hand, so that nothing but *kept* keeps it."""
    entered = await block.__aenter__()
    kept += [block, entered]
    return entered


async def _open_stream(db: Any, kept: list[Any]) -> None:
    await anext(await _enter(db.stream(IN_ORDER, batch_size=10), kept))


async def _open_transaction(db: Any, kept: list[Any]) -> None:
    await (await _enter(db.transaction(), kept)).fetch_value(COUNT)


async def _open_stream_in_a_transaction(db: Any, kept: list[Any]) -> None:
    await _open_stream(await _enter(db.transaction(), kept), kept)


async def _reported_when_dropped(
    db: Any, harness: Harness, world: str, way: Callable[[Any, list[Any]], Coroutine[Any, Any, None]]
) -> None:
    """As long as somebody has it, it is no leak; collected, it is one with its line, and the pool is whole again.

    In a task or thread of its own: where it was begun, a transaction stays the one that statements run in.
    """
    recorder = db.hooks.add(Recorder())
    kept: list[Any] = []
    if world == "async":  # not the harness: its time limit would keep the task's context
        await asyncio.create_task(way(db, kept))
        await asyncio.sleep(0)  # the loop, too, has it until its next round
    else:
        await harness.together(lambda: way(db, kept))
    gc.collect()
    assert db.stats().pool.checked_out == 1
    assert not recorder.of(ConnectionLeaked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # SQLAlchemy says so too, without the line
        kept.clear()
        gc.collect()
    (leaked,) = recorder.of(ConnectionLeaked)
    assert leaked.collected
    assert Path(leaked.origin.file).name == Path(__file__).name
    assert await is_whole(db)


dropping = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@dropping
async def test_a_stream_that_is_dropped_unclosed_gives_its_place_back(full: Any, harness: Harness, world: str) -> None:
    """Entered by hand, never left, and collected."""
    await _reported_when_dropped(await full(), harness, world, _open_stream)


@dropping
@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("sqlite", "postgresql")],
    indirect=True,
)
@pytest.mark.parametrize("way", [_open_transaction, _open_stream_in_a_transaction])
async def test_a_transaction_that_is_dropped_unclosed_gives_its_place_back(
    full: Any, harness: Harness, world: str, way: Callable[[Any, list[Any]], Coroutine[Any, Any, None]]
) -> None:
    """The same; but asyncmy's socket may keep the task's context, and with it the transaction that is ambient there."""
    await _reported_when_dropped(await full(), harness, world, way)


async def test_a_column_that_is_not_there_leaves_everything_whole(full: Any) -> None:
    """``types=`` is checked when the statement is sent already: its rows are unread by then."""
    db = await full()
    with pytest.raises(UsageError, match="'cost'"):
        async with db.stream(IN_ORDER, types={"cost": Money}):
            pass
    assert await is_whole(db)
    async with db.transaction() as tx:
        with pytest.raises(UsageError, match="'cost'"):
            async with tx.stream(IN_ORDER, types={"cost": Money}):
                pass
        await tx.execute("update stock set sku = 'after' where id = 0")
    assert await db.fetch_value("select sku from stock where id = 0") == "after"
    assert await is_whole(db)


async def test_overrides_apply(full: Any, backend: Backend) -> None:
    """``read_only`` in a transaction that may write refuses a stream that the server couldn't refuse."""
    db = await full()
    async with db.using(read_only=True).stream(IN_ORDER) as rows:
        assert len([row async for row in rows]) == ROWS
    async with db.transaction():
        with db.override(read_only=True), pytest.raises(StatementRefusedError, match="read_only"):
            async with db.stream("select unknown_function(id) from stock"):
                pass
    assert await is_whole(db)
