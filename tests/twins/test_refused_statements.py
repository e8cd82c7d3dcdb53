"""What the server or its driver refuses is no lost connection: nothing is unknown, and nothing is sent again."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from prefiq_db import errors
from prefiq_db.drivers import asyncmy as asyncmy_driver
from prefiq_db.drivers import pymysql as pymysql_driver
from prefiq_db.errors import (
    ErrorKind,
    OutcomeUnknownError,
    PrefiqDbError,
    ResourceError,
    ServerUsageError,
    StatementRefusedError,
    TransactionAbortedError,
)
from tests.conftest import Backend
from tests.twins.support import on_engine
from tests.twins.test_commit_lies import only

# --- by the server: too long ----------------------------------------------------------------------------------------

SELECT = text("select length(:value)")
MB = 1024 * 1024
# Too long for the server in one packet, which is refused while it is sent, and in four, refused in the third.
LENGTHS = [pytest.param(MB, 6 * MB, id="in one packet"), pytest.param(40 * MB, 49 * MB, id="in many packets")]


@pytest.fixture
def limited(backend: Backend) -> Iterator[Any]:
    """Set the server's ``max_allowed_packet`` for new connections; it is as it was after the test."""
    assert backend.server is not None
    before = backend.server.execute("select @@global.max_allowed_packet")[0][0]
    yield lambda size: backend.server.execute(f"set global max_allowed_packet = {size}")  # type: ignore[union-attr]
    backend.server.execute(f"set global max_allowed_packet = {before}")


async def failing(db: Any, statement: str, value: str) -> list[str]:
    """Run *statement*, which the server refuses; return what was sent."""
    sent: list[str] = []
    db.hooks.on_error(lambda event: sent.append(event.kind))
    with pytest.raises(ResourceError) as caught:
        await db.execute(statement, {"value": value})
    assert caught.value.code == 1153
    return sent


@only("mariadb")
@pytest.mark.parametrize(("limit", "length"), LENGTHS)
async def test_what_is_too_long_is_refused_once(make_db: Any, limited: Any, limit: int, length: int) -> None:
    """The server's own answer counts, read or write: it was sent once, and nothing is unknown."""
    limited(limit)
    db, value = make_db(pool_size=1, max_overflow=0), "x" * length
    await db.execute("create table note (body longtext)")
    assert await failing(db, "insert into note values (:value)", value) == [ErrorKind.RESOURCE]
    assert await failing(db, "select length(:value)", value) == [ErrorKind.RESOURCE]
    assert await db.fetch_value("select count(*) from note") == 0
    assert db.stats().pool.lost == {"dead": 2}  # they are not handed to the next


@only("mariadb")
async def test_a_transaction_ends_with_what_was_too_long(make_db: Any, limited: Any) -> None:
    """The server hangs up: a swallowed refusal is no half a transaction, and COMMIT is not asked for."""
    limited(MB)
    db, long = make_db(pool_size=1, max_overflow=0), "x" * (2 * MB)
    await db.execute("create table note (body longtext)")
    for rows in ({"value": long}, [{"value": long}]):
        with pytest.raises(TransactionAbortedError):
            async with db.transaction() as tx:
                await tx.execute("insert into note values ('before')")
                with pytest.raises(ResourceError):
                    if isinstance(rows, list):
                        await tx.execute_many("insert into note values (:value)", rows)
                    else:
                        await tx.execute("insert into note values (:value)", rows)
                await tx.execute("insert into note values ('after')")
        assert tx.outcome == "not committed"
    async with db.session() as session:
        with pytest.raises(ResourceError):
            await session.execute(text("insert into note values (:value)"), {"value": long})
    with pytest.raises(ResourceError):
        await on_engine(db, lambda connection: connection.execute(SELECT, {"value": long}), stream_results=True)
    assert await db.fetch_value("select count(*) from note") == 0
    assert db.stats().retry_count == 0


@only("mariadb")
async def test_control_who_does_not_read_the_answer_does_not_know(
    make_db: Any, limited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(self: Any, transport: Any) -> None:
        return None

    monkeypatch.setattr(pymysql_driver.Connection, "_refusal", lambda self: None)
    monkeypatch.setattr(asyncmy_driver.Connection, "_heed_refusal", deaf)
    limited(40 * MB)
    db = make_db(pool_size=1, max_overflow=0)
    with pytest.raises(OutcomeUnknownError):
        await db.execute("do length(:value)", {"value": "x" * (49 * MB)})


@only("mariadb")
@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))])
async def test_an_answer_is_heard_although_the_transport_has_given_up(
    make_db: Any, limited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio reads no more when sending fails at once: here, because the server had the time to hang up."""
    send = asyncmy_driver.Connection._write_bytes

    def send_late(self: Any, data: bytes) -> None:
        send(self, data)
        if len(data) == 5:  # the header of something long: it tells its length
            wait_until_readable(self._transport.get_extra_info("socket"))

    monkeypatch.setattr(asyncmy_driver.Connection, "_write_bytes", send_late)
    limited(MB)
    db = make_db(pool_size=1, max_overflow=0)
    assert await failing(db, "do length(:value)", "x" * (6 * MB)) == [ErrorKind.RESOURCE]


def wait_until_readable(sock: Any) -> None:
    assert select.select([sock], [], [], 20)[0]


# --- by the driver --------------------------------------------------------------------------------------------------


async def everywhere(db: Any, statement: str, params: dict[str, Any]) -> list[type[PrefiqDbError]]:
    """Send *statement* by a verb, in a transaction, a session, and on a connection of the engine; return the errors."""
    met: list[type[PrefiqDbError]] = []
    for send in (_by_verb, _in_transaction, _in_session, _on_connection):
        with pytest.raises(PrefiqDbError) as caught:
            await send(db, statement, params)
        assert caught.value.kind in (ErrorKind.USAGE, ErrorKind.RESOURCE)
        met.append(next(cls for cls in type(caught.value).__mro__ if cls in vars(errors).values()))
        assert await db.fetch_value("select 1") == 1  # of the only connection there is
    return met


async def _by_verb(db: Any, statement: str, params: dict[str, Any]) -> None:
    await db.execute(statement, params)


async def _in_transaction(db: Any, statement: str, params: dict[str, Any]) -> None:
    async def body(tx: Any) -> None:
        await tx.execute(statement, params)

    await db.run_in_transaction(body)


async def _in_session(db: Any, statement: str, params: dict[str, Any]) -> None:
    async with db.session() as session:
        await session.execute(text(statement), params)


async def _on_connection(db: Any, statement: str, params: dict[str, Any]) -> None:
    await on_engine(db, lambda one: one.execute(text(statement), params), isolation_level="AUTOCOMMIT")


@only("postgresql")
async def test_more_binds_than_the_protocol_takes_are_refused_once(make_db: Any) -> None:
    """Outside a transaction too, where a lost connection would leave a write unknown."""
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute("create table item (id integer)")
    rows = "insert into item values " + ", ".join(["(%s)"] * 65_536)
    for options in ({}, {"isolation_level": "AUTOCOMMIT"}):
        with pytest.raises(ResourceError):
            await on_engine(db, lambda one: one.exec_driver_sql(rows, (1,) * 65_536), **options)
    assert await db.fetch_value("select count(*) from item") == 0
    assert db.stats().pool.opened_count == 1


@only("postgresql")
@pytest.mark.parametrize("statement", ["copy item from stdin", "/* all */ COPY (select 1) TO STDOUT (FORMAT csv)"])
async def test_copy_as_a_statement_is_refused_and_blocks_nobody(make_db: Any, statement: str) -> None:
    """Verbs don't send it; elsewhere the connection, on which the server waits for rows, goes, and no other."""
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute("create table item (id integer)")
    met = await everywhere(db, statement, {})
    assert met == [StatementRefusedError, StatementRefusedError, ServerUsageError, ServerUsageError]
    with pytest.raises(StatementRefusedError):
        await db.execute_many(statement, [{}, {}])
    assert (db.stats().retry_count, db.stats().pool.lost) == (0, {"invalidated": 2})


@only("postgresql")
async def test_only_the_connection_in_the_middle_of_copy_is_lost(make_db: Any) -> None:
    """The others of the pool are as good as before."""
    db = make_db(pool_size=2, max_overflow=0)
    await db.open()
    with pytest.raises(ServerUsageError):
        await _in_session(db, "copy (select 1) to stdout", {})
    for _ in range(3):
        assert await db.fetch_value("select 1") == 1
    assert (db.stats().pool.lost, db.stats().pool.opened_count) == ({"invalidated": 1}, 3)


@only("postgresql")
async def test_a_file_of_the_servers_is_no_copy_of_ours(db: Any) -> None:
    await db.execute("create table stdin (id integer)")
    with pytest.raises(PrefiqDbError) as caught:
        await db.execute("copy stdin from '/missing/file'")
    assert caught.value.code == "58P01"


@only("mariadb")
@pytest.mark.parametrize("at_commit", [False, True])
async def test_what_a_closed_connection_refuses_is_done_again(make_db: Any, at_commit: bool) -> None:
    """PyMySQL's (0, '') and asyncmy's (0, 'Not connected'): nothing was sent, COMMIT neither."""
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute("create table item (id integer)")
    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        await tx.execute("insert into item values (1)")
        if calls == 1:
            hang_up(driver_of(tx))
        if not at_commit:
            await tx.execute("insert into item values (2)")

    await db.run_in_transaction(body)
    assert calls == 2
    assert await db.fetch_value("select count(*) from item") == (1 if at_commit else 2)


@only("mariadb")
async def test_a_reply_out_of_step_ends_the_connection(make_db: Any) -> None:
    """What is left of it must not become anybody's answer; the work is done again on another connection."""
    db = make_db(pool_size=1, max_overflow=0)
    await db.execute("create table item (id integer)")
    calls = 0

    async def body(tx: Any) -> None:
        nonlocal calls
        calls += 1
        await tx.fetch_value("select 1")  # BEGIN travels with it: whoever takes the driver's connection sends it apart
        if calls == 1:
            stray_ping(driver_of(tx))
        await tx.execute("insert into item values (1)")

    await db.run_in_transaction(body)
    assert (calls, db.stats().retries) == (2, {ErrorKind.CONNECTION_LOST: 1})
    assert await db.fetch_value("select count(*) from item") == 1


def driver_of(tx: Any) -> Any:
    """Return the driver's own connection under *tx*."""
    connection = getattr(tx.connection, "sync_connection", tx.connection)
    return connection.connection.driver_connection


def hang_up(driver: Any) -> None:
    getattr(driver, "_force_close", driver.close)()


def stray_ping(driver: Any) -> None:
    """Send a ping whose answer nobody waits for; it has the number 6, and the next statement's should have 1."""
    packet = b"\x01\x00\x00\x05\x0e"
    if hasattr(driver, "_sock") and hasattr(driver._sock, "sendall"):
        driver._sock.sendall(packet)
    else:
        driver._transport.write(packet)
