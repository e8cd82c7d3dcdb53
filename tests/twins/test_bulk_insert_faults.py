"""A bulk insert that is cancelled, cut off, frozen or lied to inserts nothing, and never twice; memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import Database, ErrorKind, RetryPolicy
from prefiq_db.drivers.local_stream import LocalStream, asked_for
from prefiq_db.errors import NotCommittedError, OutcomeUnknownError, PrefiqDbError, StatementTimeoutError
from prefiq_db.events import CallFinished, Listener, StatementFinished
from prefiq_db.testing.links import Link
from prefiq_db.testing.proxy import TcpProxy
from prefiq_db.transaction import RUN_AGAIN
from tests.conftest import Backend
from tests.twins.harness import drive, make_database
from tests.twins.support import in_engine_begin
from tests.twins.test_bulk_insert import ITEM, count, create, rows

COLUMNS = ["id", "sku", "qty"]
ONCE = RetryPolicy(attempts=1)
async_only = pytest.mark.parametrize(
    "world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True
)
sync_only = pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)


def tuples(start: int, end: int) -> Iterator[tuple[int, str, int]]:
    for number in range(start, end):
        yield number, f"S{number}", number % 7


# --- cancelled -----------------------------------------------------------------------------------


@async_only
async def test_a_cancelled_task_leaves_nothing_and_no_connection_half_used(make_db: Any) -> None:
    """While rows are waited for, in the middle of the second chunk, and at any await of a small insert."""
    db = await create(make_db(pool_size=1, max_overflow=1))
    reached = asyncio.Event()

    async def slow() -> AsyncIterator[Any]:
        for row in tuples(0, 12_000):
            yield row
        reached.set()
        await asyncio.sleep(60)

    task = asyncio.ensure_future(db.bulk_insert(ITEM, slow(), columns=COLUMNS))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(db) == 0
    for ticks in range(0, 60, 2):
        task = asyncio.ensure_future(db.bulk_insert(ITEM, list(tuples(0, 50)), columns=COLUMNS))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await count(db) in (0, 50)
        await db.execute(ITEM.delete())
    assert db.stats().pool.checked_out == 0


# --- cut off -------------------------------------------------------------------------------------


class Cutter(TcpProxy):
    """Cuts a connection when the client sends *word*; if *delivers*, the server gets it and its reply is lost."""

    word = b"\0never\0"
    delivers = False
    cuts = 0
    most = 1

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self._doomed: set[Link] = set()

    def client_sent(self, link: Link, data: bytes) -> bytes:
        if self.word in data and self.cuts < self.most:
            self.cuts += 1
            if self.delivers:
                self._doomed.add(link)
                return data
            self.reset_link(link)
            return b""
        return data

    def server_sent(self, link: Link, data: bytes) -> bytes:
        if link not in self._doomed:
            return data
        self.reset_link(link)
        return b""


@pytest.fixture(params=["postgresql", "mariadb"])
def cut(request: pytest.FixtureRequest, world: str, loop_runner: asyncio.Runner) -> Iterator[Any]:
    """A database behind a proxy that cuts its connections, and the proxy."""
    request.node.add_marker(request.param)
    server = request.getfixturevalue(f"{request.param}_server")
    name = server.create_database()
    with Cutter(server.host, server.port) as proxy:
        db = make_database(world, proxy.url(server.url(name)), retry=RetryPolicy(attempts=3, wait_initial_seconds=0.01))
        run = loop_runner.run if world == "async" else drive
        run(create(db))
        yield db, proxy
        proxy.word = b"\0never\0"
        run(db.close())


async def test_a_connection_lost_at_commit_is_an_unknown_outcome_and_nothing_is_repeated(cut: Any) -> None:
    db, proxy = cut
    proxy.word, proxy.delivers = b"COMMIT", True
    with pytest.raises(OutcomeUnknownError):
        await db.bulk_insert(ITEM, rows(0, 100))
    assert proxy.cuts == 1
    assert await count(db) == 100


async def test_a_lost_connection_is_repeated_only_with_rows_that_can_be_had_again(cut: Any) -> None:
    """A list goes in once in all; a generator that gave more than its first rows is not asked to repeat itself."""
    db, proxy = cut
    proxy.word, proxy.cuts = b"S15000", 0
    with pytest.raises(PrefiqDbError) as caught:
        await db.bulk_insert(ITEM, tuples(0, 20_000), columns=COLUMNS)
    assert caught.value.kind is ErrorKind.CONNECTION_LOST
    assert (proxy.cuts, await count(db)) == (1, 0)
    proxy.cuts = 0
    result = await db.bulk_insert(ITEM, list(tuples(0, 20_000)), columns=COLUMNS)
    assert (proxy.cuts, result.inserted, await count(db)) == (1, 20_000, 20_000)
    proxy.word, proxy.cuts = b"S30010", 0
    result = await db.bulk_insert(ITEM, tuples(30_000, 30_020), columns=COLUMNS)
    assert (proxy.cuts, result.inserted) == (1, 20)


async def test_a_transient_error_of_the_source_itself_is_not_repeated(db: Any) -> None:
    """As when rows are read from another database: the generator has ended, and part of its rows is not all of them."""
    await create(db)
    lost = NotCommittedError("another database", classification=RUN_AGAIN)

    def given() -> Iterator[Any]:
        yield from tuples(0, 10_000)
        raise lost

    with pytest.raises(NotCommittedError) as caught:
        await db.bulk_insert(ITEM, given(), columns=COLUMNS)
    assert caught.value is lost
    assert await count(db) == 0


async def test_inside_a_transaction_a_lost_connection_is_never_repeated(cut: Any) -> None:
    db, proxy = cut
    with pytest.raises(PrefiqDbError) as caught:
        async with db.transaction() as tx:
            await tx.execute(ITEM.insert().values(id=1, sku="first"))
            proxy.word, proxy.cuts = b"S10010", 0
            await tx.bulk_insert(ITEM, rows(10_000, 10_020))
    assert caught.value.kind is ErrorKind.CONNECTION_LOST
    assert (proxy.cuts, await count(db)) == (1, 0)


class Silencer(Cutter):
    """Passes nothing on any more on a connection whose client sends *word*."""

    def client_sent(self, link: Link, data: bytes) -> bytes:
        if self.word in data and self.cuts < self.most:
            self.cuts += 1
            self.silence(link)
        return data


@pytest.mark.parametrize("server_name", ["postgresql", "mariadb"])
async def test_a_server_that_falls_silent_is_given_up_after_the_time_limit(
    request: pytest.FixtureRequest, world: str, server_name: str
) -> None:
    server = request.getfixturevalue(f"{server_name}_server")
    with Silencer(server.host, server.port) as proxy:
        url = proxy.url(server.url(server.create_database()))
        db = make_database(world, url, statement_timeout_seconds=0.5, retry=ONCE)
        await create(db)
        proxy.word = b"S10"
        with pytest.raises(StatementTimeoutError):
            await db.bulk_insert(ITEM, rows(0, 100))
        proxy.restore()
        assert await count(db) == 0
        await db.close()


# --- lied to -------------------------------------------------------------------------------------


class Liar(TcpProxy):
    """Answers a statement with a request for a file, and notes what the client sends after that."""

    word = b"\0never\0"
    file = b"/etc/hostname"
    heard = b""
    lied = False

    def client_sent(self, link: Link, data: bytes) -> bytes:
        if self.lied:
            self.heard += data
            return b""
        if self.word in data:
            self.lied = True
            request = b"\xfb" + self.file
            self.send(link.client, len(request).to_bytes(3, "little") + b"\x01" + request)
            return b""
        return data


@pytest.mark.parametrize("asks_during", ["any statement", "LOAD DATA"])
async def test_a_server_that_asks_for_a_file_gets_nothing(mariadb_server: Any, world: str, asks_during: str) -> None:
    with Liar(mariadb_server.host, mariadb_server.port) as proxy:
        db = make_database(world, proxy.url(mariadb_server.url(mariadb_server.create_database())), retry=ONCE)
        await create(db)
        if asks_during == "LOAD DATA":
            proxy.word = b"LOAD DATA LOCAL INFILE"
            with pytest.raises(PrefiqDbError):
                await db.bulk_insert(ITEM, rows(0, 10))
        else:
            proxy.word = b"select 17"
            with pytest.raises(PrefiqDbError) as caught:
                await db.fetch_value("select 17")
            assert caught.value.code == 2068
        assert proxy.lied
        assert proxy.heard.strip(b"\x01\x00") == b""
        proxy.lied, proxy.word = False, b"\0never\0"
        assert await count(db) == 0
        await db.close()


def test_only_the_stream_of_this_call_is_given() -> None:
    stream = LocalStream(b"rows")
    assert asked_for(stream, stream.name.encode())
    assert not asked_for(stream, b"/etc/passwd")
    assert not asked_for(LocalStream(b"rows"), stream.name)
    assert not asked_for(None, stream.name)


async def test_without_local_infile_it_goes_by_long_inserts(mariadb_server: Any, world: str) -> None:
    mariadb_server.execute("set global local_infile = 0")
    try:
        db = make_database(world, mariadb_server.url(mariadb_server.create_database()))
        await create(db)
        assert (await db.bulk_insert(ITEM, tuples(0, 12_000), columns=COLUMNS)).inserted == 12_000
        with pytest.raises(PrefiqDbError, match=r"^rows\[3\]"):
            await db.bulk_insert(ITEM, [*rows(20_000, 20_003), *rows(5, 6)])
        assert await count(db) == 12_000
        await db.close()
    finally:
        mariadb_server.execute("set global local_infile = 1")


# --- what is told of it --------------------------------------------------------------------------


class Notes(Listener):
    def __init__(self) -> None:
        self.statements: list[StatementFinished] = []
        self.calls: list[CallFinished] = []

    def statement_finished(self, event: StatementFinished) -> None:
        self.statements.append(event)

    def call_finished(self, event: CallFinished) -> None:
        self.calls.append(event)


async def test_events_and_statistics_know_its_statements(db: Any) -> None:
    await create(db)
    notes = db.hooks.add(Notes())
    await db.using(tags={"route": "import"}).bulk_insert(ITEM, tuples(0, 12_000), columns=COLUMNS)
    chunks = [event for event in notes.statements if event.batch_size > 1]
    assert sum(event.rows for event in chunks) == sum(event.batch_size for event in chunks) == 12_000
    assert {event.summary for event in chunks} == {"INSERT item"}
    assert {dict(event.tags)["route"] for event in chunks} == {"import"}
    (call,) = notes.calls
    assert (call.verb, call.attempts, call.kind) == ("bulk_insert", 1, None)
    assert {event.call_id for event in chunks} == {call.call_id}
    assert sum(entry.rows for entry in db.stats().statements if entry.summary == "INSERT item") == 12_000


async def test_progress_is_called_seldom_and_in_the_end_with_the_total(db: Any) -> None:
    await create(db)
    told: list[int] = []
    await db.bulk_insert(ITEM, tuples(0, 25_000), columns=COLUMNS, progress=told.append)
    assert told[-1] == 25_000
    assert told == sorted(told)
    assert len(told) <= 4  # three chunks, and the end


# --- memory --------------------------------------------------------------------------------------

FLAT = 16 * 2**20
ROWS = 200_000
_SMALL = sa.Table(
    "small",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", sa.String(120)),
    sa.Column("qty", sa.Integer),
)


class Gauge:
    """How much resident memory the process gained since the gauge was made, looked at while rows are taken."""

    def __init__(self) -> None:
        gc.collect()
        self._before = _resident()
        self.gained = 0

    def wide(self, start: int, end: int) -> Iterator[tuple[int, str, int]]:
        for number in range(start, end):
            if number % 5000 == 0:
                self.look()
            yield number, f"{number:>100}", 0

    def look(self, *done: int) -> None:
        self.gained = max(self.gained, _resident() - self._before)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


@sync_only
def test_many_rows_go_in_with_flat_memory(backend: Backend, world: str) -> None:
    with Database(backend.url) as db:
        _SMALL.create(db.engine)
        db.bulk_insert(_SMALL, Gauge().wide(0, 20_000), columns=COLUMNS)
        gauge = Gauge()
        db.bulk_insert(_SMALL, gauge.wide(20_000, ROWS), columns=COLUMNS, progress=gauge.look)
        assert gauge.gained < FLAT
        assert db.fetch_value("select count(*) from small") == ROWS


@async_only
async def test_many_rows_of_an_async_generator_go_in_with_flat_memory(db: Any) -> None:
    async def given(rows: Iterator[Any]) -> AsyncIterator[Any]:
        for row in rows:
            yield row

    await in_engine_begin(db, _SMALL.metadata.create_all)
    await db.bulk_insert(_SMALL, given(Gauge().wide(0, 20_000)), columns=COLUMNS)
    gauge = Gauge()
    await db.bulk_insert(_SMALL, given(gauge.wide(20_000, ROWS)), columns=COLUMNS, progress=gauge.look)
    assert gauge.gained < FLAT
    assert await db.fetch_value("select count(*) from small") == ROWS


def test_the_control_that_materializes_is_not_flat() -> None:
    with Database("sqlite://") as db:
        _SMALL.create(db.engine)
        gauge = Gauge()
        rows = list(gauge.wide(20_000, ROWS))
        db.bulk_insert(_SMALL, rows[:100], columns=COLUMNS, progress=gauge.look)
        assert gauge.gained > FLAT
