"""A task cancelled while BEGIN, SAVEPOINT or a timeout is on its way leaves no half-read connection behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from prefiq_db import AsyncDatabase
from prefiq_db.testing.links import Link
from prefiq_db.testing.proxy import TcpProxy
from tests.conftest import Backend
from tests.twins.support import CREATE_STOCK, INSERT_STOCK


class Holder(TcpProxy):
    """Holds back the reply to a message with a marker in it, until it is released."""

    marker = b"never"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.held: set[Link] = set()
        self.asked = 0

    def client_sent(self, link: Link, data: bytes) -> bytes:
        if self.marker in data:
            self.held.add(link)
            self.asked += 1
        return data

    def server_sent(self, link: Link, data: bytes) -> bytes:
        return b"" if link in self.held else data


@asynccontextmanager
async def held_back(backend: Backend) -> AsyncIterator[tuple[AsyncDatabase, Holder]]:
    if backend.server is None:
        pytest.skip("SQLite has no reply to hold back")
    with Holder(backend.server.host, backend.server.port) as proxy:
        db = AsyncDatabase(proxy.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0)
        await db.open()
        await db.execute(CREATE_STOCK)
        yield db, proxy
        await db.close()


async def cancelled_when_held(proxy: Holder, marker: bytes, work: Callable[[], Any]) -> None:
    """Start *work*, wait until a message with *marker* was sent, cancel it, and see the cancellation come out."""
    proxy.marker = marker
    task = asyncio.create_task(work())
    async with asyncio.timeout(20):
        while not proxy.asked:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.001)
    proxy.marker = b"never"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("step", ["BEGIN", "SAVEPOINT", "timeout", "statement", "ROLLBACK TO"])
async def test_a_cancelled_step_ends_its_connection(backend: Backend, step: str) -> None:
    """Whichever reply is awaited: nothing is committed, nothing stays checked out, the next call is right."""
    if backend.name == "postgresql" and step != "SAVEPOINT":
        pytest.skip("psycopg waits 5 s for a cancelled reply by itself: once is enough")
    async with held_back(backend) as (db, proxy):
        timeout = {"postgresql": b"statement_timeout", "mariadb": b"max_statement_time"}[backend.name]
        begin = {"postgresql": b"BEGIN", "mariadb": b"START TRANSACTION"}[backend.name]
        marker = {"BEGIN": begin, "timeout": timeout, "statement": b"1 + 41"}.get(step, step.encode())

        async def work() -> None:
            async with db.transaction() as tx:
                await tx.execute(INSERT_STOCK, {"id": 1, "quantity": 1})
                try:
                    async with db.transaction():
                        if step == "timeout":
                            await db.using(timeout=3).fetch_value("select 2")
                        if step == "statement":
                            await db.fetch_value("select 1 + 41")
                        raise ZeroDivisionError
                except ZeroDivisionError:
                    pass
                await tx.execute(INSERT_STOCK, {"id": 2, "quantity": 1})

        await cancelled_when_held(proxy, marker, work)
        assert db.stats().pool.checked_out == 0
        for number in range(3, 6):
            assert await db.fetch_value("select :number", {"number": str(number)}) == str(number)
        assert await db.fetch_value("select count(*) from stock") == 0


async def test_a_cancelled_timeout_of_a_one_shot_ends_its_connection(backend: Backend) -> None:
    """The same for the message that sets the timeout of a one-shot; and the write was never sent."""
    if backend.name == "postgresql":
        pytest.skip("psycopg waits 5 s for a cancelled reply by itself: once is enough")
    async with held_back(backend) as (db, proxy):

        async def work() -> None:
            await db.using(timeout=3).execute(INSERT_STOCK, {"id": 1, "quantity": 1})

        await cancelled_when_held(proxy, b"max_statement_time", work)
        assert db.stats().pool.checked_out == 0
        assert await db.fetch_value("select count(*) from stock") == 0
