"""What the server or its driver refuses is no lost connection: nothing is unknown, and nothing is sent again."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from prefiq_db.drivers import asyncmy as asyncmy_driver
from prefiq_db.drivers import pymysql as pymysql_driver
from prefiq_db.errors import ErrorKind, OutcomeUnknownError, ResourceError, TransactionAbortedError
from tests.conftest import Backend
from tests.twins.support import on_engine
from tests.twins.test_commit_lies import only

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
