"""MariaDB: BEGIN and COMMIT travel in one text with a statement, and several statements are on for that text alone.

The server stops at the first statement that fails, so nothing runs outside the transaction, and no COMMIT follows a
failure. The controls break it: two packets, and a text that the guard lets pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa

from prefiq_db.errors import (
    IntegrityError,
    OutcomeUnknownError,
    PrefiqDbError,
    SchemaError,
    StatementCancelledError,
    StatementTimeoutError,
)
from prefiq_db.testing.faults import COMMIT, BlackHole, CutReply, FaultProxy, Message, Slice
from prefiq_db.testing.faults.link import FaultyLink
from tests.conftest import Backend
from tests.twins.harness import make_database
from tests.twins.support import on_sync_engine, session_id, upgrade_schema

READ = "select quantity from stock where id = 1"
ADD_TEN = "update stock set quantity = quantity + 10 where id = 1"

pytestmark = pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)


@pytest.fixture
def stock(backend: Backend, world: str, proxy: FaultProxy, run: Callable[[Any], Any]) -> Iterator[Any]:
    """A database of one connection, through the proxy."""
    upgrade_schema(backend)
    db = make_database(
        world, proxy.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0, statement_timeout_seconds=20
    )
    run(db.open())
    run(db.execute("create table stock (id integer primary key auto_increment, quantity integer, note longtext)"))
    run(db.execute("insert into stock (id, quantity, note) values (1, 0, '')"))
    yield db
    checked_out = db.stats().pool.checked_out
    run(db.close())
    assert not checked_out


async def quantity(db: Any) -> Any:
    return await db.fetch_value(READ)


async def assert_one_at_a_time(db: Any) -> None:
    """See that the server refuses two statements in one text on the pool's only connection."""

    def send_two(engine: Any) -> None:
        raw = engine.raw_connection()
        try:
            with pytest.raises(Exception, match="1064"):
                raw.cursor().execute("select 1; select 2")
        finally:
            raw.close()

    await on_sync_engine(db, send_two)


async def session(db: Any) -> Any:
    return await db.fetch_value("select connection_id()")


# --- the server's rules -----------------------------------------------------------------------------


def _query(text: str) -> bytes:
    payload = b"\x03" + text.encode()
    return len(payload).to_bytes(3, "little") + b"\0" + payload


def _send(backend: Backend, *packets: bytes) -> None:
    """Send *packets* at once, on a connection of its own, and wait for their replies."""
    url = sa.make_url(backend.url)
    with pymysql.connect(
        host=url.host or "", port=url.port or 0, user=url.username, password=url.password or "", database=url.database
    ) as raw:
        raw.autocommit(True)
        raw._sock.sendall(b"".join(packets))  # type: ignore[attr-defined]
        raw._sock.settimeout(20)  # type: ignore[attr-defined]
        for _ in packets:
            while True:
                head = raw._rfile.read(4)  # type: ignore[attr-defined]
                body = raw._rfile.read(int.from_bytes(head[:3], "little"))  # type: ignore[attr-defined]
                more = body[0] == 0 and body[3] & 8
                if not more:
                    break


_ON, _OFF = b"\x03\0\0\0\x1b\0\0", b"\x03\0\0\0\x1b\x01\0"
_NO_BEGIN = "start transaction read only, read write"  # as if it were stopped
_TAKEN = "insert into stock (id) values (1)"


@pytest.mark.parametrize("world", ["sync"])
async def test_control_two_packets_run_what_follows_an_error(stock: Any, backend: Backend) -> None:
    """So BEGIN and COMMIT never travel in packets of their own: the first runs outside, the other commits a half."""
    _send(backend, _query(_NO_BEGIN), _query(ADD_TEN))
    assert await quantity(stock) == 10
    _send(backend, _query("start transaction"), _query(ADD_TEN), _query(_TAKEN), _query("commit"))
    assert await quantity(stock) == 20


@pytest.mark.parametrize("world", ["sync"])
async def test_one_text_stops_at_an_error(stock: Any, backend: Backend) -> None:
    """Wherever it is: in BEGIN, in the statement, or because several statements are not on."""
    _send(backend, _ON, _query(f"{_NO_BEGIN}; {ADD_TEN}"), _OFF)
    _send(backend, _ON, _query(f"start transaction; {ADD_TEN}"), _query(f"{_TAKEN}; commit"), _OFF)
    _send(backend, _OFF, _query(f"{ADD_TEN}; {ADD_TEN}"), _OFF)
    assert await quantity(stock) == 0


# --- what travels -----------------------------------------------------------------------------------


async def test_several_statements_are_on_for_one_text(stock: Any) -> None:
    """Whatever becomes of it: the connection that comes back takes one statement at a time."""
    first = await session(stock)
    await assert_one_at_a_time(stock)
    async with stock.transaction() as tx:
        await tx.execute(ADD_TEN)
        await tx.execute(ADD_TEN, last=True)
    await assert_one_at_a_time(stock)
    for last in (False, True):
        with pytest.raises(IntegrityError):
            async with stock.transaction() as tx:
                await tx.execute(_TAKEN, last=last)
        await assert_one_at_a_time(stock)
    with pytest.raises(StatementTimeoutError):
        async with stock.transaction() as tx:
            await stock.using(timeout=0.2).fetch_value("select sleep(10)")
    await assert_one_at_a_time(stock)
    assert await session(stock) == first
    assert await quantity(stock) == 20


_VALUES = ["a'; drop table stock; -- ", "\\'; commit; #", "; ", '"; rollback; /*', "\\", "%s %% :x", "\n;\n", "é😀;'"]


@pytest.mark.parametrize("value", _VALUES)
async def test_a_value_stays_a_value(stock: Any, value: str) -> None:
    async with stock.transaction() as tx:
        await tx.execute("insert into stock (id, note) values (2, :note)", {"note": value})
        await tx.execute("update stock set note = :note where id = 1", {"note": value}, last=True)
    assert {row.note for row in await stock.fetch_all("select note from stock")} == {value}


@pytest.mark.parametrize(
    "text",
    [
        f"{ADD_TEN}; drop table stock",
        f"{ADD_TEN} /*! ; drop table stock */",
        f"{ADD_TEN} and note = '; drop table stock",
        f"{ADD_TEN} and note = 'a\\'; drop table stock; -- '",
        f"{ADD_TEN} /* ; drop table stock",
        f"{ADD_TEN} and `x; drop table stock",
    ],
)
@pytest.mark.parametrize("last", [False, True])
async def test_no_text_reaches_out_of_its_place(stock: Any, proxy: FaultProxy, text: str, last: bool) -> None:
    """It is refused, or sent by itself, where several statements are off."""
    with contextlib.suppress(PrefiqDbError):
        async with stock.transaction() as tx:
            await tx.execute(text, last=last)
    assert await stock.fetch_value("select count(*) from stock") == 1


@pytest.mark.parametrize("end", [" -- x", "\n# x", " /* x */", ";", "; -- x"])
async def test_an_end_of_any_kind(stock: Any, end: str) -> None:
    """A comment doesn't swallow COMMIT; a semicolon sends the statement by itself."""
    async with stock.transaction() as tx:
        await tx.execute(ADD_TEN)
        await tx.execute(READ + end, last=True)
    assert await quantity(stock) == 10
    async with stock.transaction() as tx:
        await tx.execute(ADD_TEN + end, last=True)
    assert (tx.outcome, await quantity(stock)) == ("committed", 20)
    await assert_one_at_a_time(stock)


async def test_the_statement_has_its_own_reply(stock: Any) -> None:
    """Count, key and rows are those of the statement, and the next one sees the key."""
    async with stock.transaction(isolation="SERIALIZABLE") as tx:
        result = await tx.execute("insert into stock (quantity) values (5), (6)")
        assert result.rowcount == 2
        assert await tx.fetch_value("select last_insert_id()") == 2
    table = sa.Table(
        "stock", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("quantity", sa.Integer)
    )
    async with stock.transaction() as tx:
        made = await tx.execute(table.insert().values(quantity=7), last=True)
        assert made.inserted_primary_key[0] == 4
    async with stock.transaction() as tx:
        rows = await tx.fetch_all("select id from stock order by id")
        assert [row.id for row in rows] == [1, 2, 3, 4]
        assert (await tx.execute("update stock set quantity = 1 where id > 2")).rowcount == 2
        assert await tx.fetch_value("select @@tx_isolation") == "REPEATABLE-READ"


async def test_a_warning_is_no_error(stock: Any) -> None:
    for last in (False, True):
        async with stock.transaction() as tx:
            assert (await tx.execute("insert ignore into stock (id) values (1)", last=last)).rowcount == 0
    assert await quantity(stock) == 0


async def test_a_long_statement_travels_alone(stock: Any) -> None:
    note = "x" * 600_000
    async with stock.transaction() as tx:
        await tx.execute("update stock set note = :note where id = 1", {"note": note})
        await tx.execute(ADD_TEN)
    async with stock.transaction() as tx:
        await tx.execute("update stock set note = :note, quantity = 3 where id = 1", {"note": note + "y"}, last=True)
        assert tx.outcome == "committed"
    assert await stock.fetch_value("select length(note) + quantity from stock") == 600_004
    with pytest.raises(SchemaError):
        async with stock.transaction() as tx:
            await tx.execute("update no_such_table set note = :note", {"note": note}, last=True)
    assert tx.outcome == "not committed"


async def test_a_failed_first_statement_leaves_the_block_usable(stock: Any) -> None:
    """As on MariaDB always: an error undoes its statement alone."""
    async with stock.transaction() as tx:
        with pytest.raises(IntegrityError):
            await tx.execute(_TAKEN)
        await tx.execute(ADD_TEN)
        with pytest.raises(IntegrityError):
            await tx.execute(_TAKEN, last=True)
        await tx.execute(ADD_TEN, last=True)
    assert await quantity(stock) == 20


# --- what comes between ------------------------------------------------------------------------------


async def test_kill_query_at_any_moment_leaves_all_or_nothing(stock: Any, backend: Backend) -> None:
    """The reply says which, each statement gets its own reply, and the connection goes on."""
    assert backend.server is not None
    server, victim, done = backend.server, await session_id(stock, backend), threading.Event()

    def kill() -> None:
        with server.connect() as killer, killer.cursor() as cursor:  # type: ignore[attr-defined]
            while not done.wait(random.random() * 0.002):
                with contextlib.suppress(pymysql.err.OperationalError):  # a ROLLBACK that was hit costs the session
                    cursor.execute(f"kill query {victim}")

    thread = threading.Thread(target=kill)
    thread.start()
    kept, lost = set(), set()
    try:
        for number in range(2, 1000):
            try:
                async with stock.transaction() as tx:
                    if number % 2:
                        victim = await tx.fetch_value("select connection_id()")
                    await tx.execute(
                        "insert into stock (id, quantity) values (:id, sleep(:pause))",
                        {"id": number, "pause": 0.002 if number % 4 < 2 else 0},
                        last=True,
                    )
                kept.add(number)
            except StatementCancelledError:
                lost.add(number)
            if min(len(kept), len(lost)) >= 40:
                break
    finally:
        done.set()
        thread.join()
    stored = {row.id for row in await stock.fetch_all("select id from stock where id > 1")}
    assert stored == kept
    assert lost, "the control: some were stopped"
    await assert_one_at_a_time(stock)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("last", [False, True])
async def test_a_reply_that_is_cut_anywhere(stock: Any, proxy: FaultProxy, first: bool, last: bool) -> None:
    """What we say of the outcome is true, or that it is unknown; and the next one gets a whole connection."""
    expected = 0
    for place in range(0, 36, 3):
        tx: Any = None
        with proxy.fault(CutReply(after_bytes=place), on=_adds, times=1) as plan, contextlib.suppress(PrefiqDbError):
            async with stock.transaction() as tx:
                if not first:
                    await tx.fetch_value(READ)
                await tx.execute(ADD_TEN, last=last)
        proxy.wait()
        assert plan.hits == 1
        now = await quantity(stock)
        assert now in (expected, expected + 10)
        if tx.outcome != "unknown":
            assert (now > expected) is (tx.outcome == "committed")
        expected = now
        await assert_one_at_a_time(stock)


def _adds(message: Message) -> bool:
    return ADD_TEN in message.sql


async def test_a_reply_in_single_bytes(stock: Any, proxy: FaultProxy) -> None:
    for last in (False, True):
        with proxy.fault(Slice(), on=_adds, times=1) as plan:
            async with stock.transaction() as tx:
                await tx.execute(ADD_TEN, last=last)
        assert (plan.hits, tx.outcome) == (1, "committed")
    assert await quantity(stock) == 20


@pytest.mark.parametrize("last", [False, True])
async def test_a_silent_server(stock: Any, proxy: FaultProxy, last: bool) -> None:
    with (
        proxy.fault(BlackHole(delivered=True), on=_adds, times=1),
        pytest.raises(OutcomeUnknownError if last else PrefiqDbError),
    ):
        async with stock.transaction(timeout=1) as tx:
            await tx.execute(ADD_TEN, last=last)
    assert tx.outcome == ("unknown" if last else "not committed")
    proxy.cut_all()
    proxy.restore()
    assert await quantity(stock) == (10 if last else 0)
    await assert_one_at_a_time(stock)


@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))])
@pytest.mark.parametrize("last", [False, True])
async def test_a_cancelled_first_statement(stock: Any, proxy: FaultProxy, last: bool) -> None:
    """It is ended at the server; one that COMMIT travels with is waited for."""
    seen: list[Any] = []

    async def work() -> None:
        async with stock.transaction() as tx:
            seen.append(tx)
            await tx.execute("update stock set quantity = 10 + sleep(0.3) where id = 1", last=last)

    sent = threading.Event()
    with proxy.fault(_Seen(sent), on=lambda message: "sleep" in message.sql, times=1):
        task = asyncio.create_task(work())
        await asyncio.to_thread(sent.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert seen[0].outcome == ("committed" if last else "not committed")
    assert await quantity(stock) == (10 if last else 0)
    await assert_one_at_a_time(stock)


class _Seen:
    """Tells that a message has passed."""

    def __init__(self, passed: threading.Event) -> None:
        self._passed = passed

    def strike(self, link: FaultyLink, message: Message) -> None:
        link.forward(message)
        self._passed.set()


class _Refused:
    """Makes a mistake of a message, so that the server refuses it, and what it should have ended stays open."""

    def strike(self, link: FaultyLink, message: Message) -> None:
        link.forward(replace(message, raw=message.raw[:-1] + b"?"))


@pytest.mark.parametrize("use", ["read", "write", "transaction", "session"])
async def test_a_refused_end_of_a_reading_transaction_is_nobodys_error(stock: Any, proxy: FaultProxy, use: str) -> None:
    """Its transaction may still be open: the connection is closed, and nothing runs in it or is done twice."""
    before = await session(stock)
    with proxy.fault(_Refused(), on=COMMIT, times=1) as plan:
        async with stock.transaction(read_only=True) as tx:
            await tx.fetch_value(READ)
        if use == "read":
            assert await quantity(stock) == 0
        elif use == "write":
            assert (await stock.execute(ADD_TEN)).rowcount == 1
        elif use == "transaction":
            async with stock.transaction() as tx:
                assert (await tx.execute(ADD_TEN)).rowcount == 1
        else:
            async with stock.session() as orm:
                await orm.execute(sa.text(ADD_TEN))
                await orm.commit()
    assert plan.hits == 1
    assert await session(stock) != before
    assert await quantity(stock) == (0 if use == "read" else 10)


async def test_each_statement_of_a_refused_commit_is_undone(stock: Any, proxy: FaultProxy) -> None:
    """The server says that COMMIT failed and the transaction is open: the block rolls it back."""
    with (
        proxy.fault(_Refused(), on=COMMIT, times=1),
        pytest.raises(PrefiqDbError),
    ):
        async with stock.transaction() as tx:
            await tx.execute(ADD_TEN, last=True)
    assert tx.outcome == "not committed"
    assert await quantity(stock) == 0
    await assert_one_at_a_time(stock)
