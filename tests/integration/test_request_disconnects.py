"""Clients that go away in the middle of a request leave nothing behind.

``PREFIQ_CUT_REQUESTS=1000`` makes the short version the long one.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

from prefiq_db import Database
from prefiq_db.integrations.fastapi import PrefiqDb
from prefiq_db.testing.processes import wait_until
from tests.conftest import Backend
from tests.integration.request_services import boot
from tests.serving import serve_asgi
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK

REQUESTS = int(os.environ.get("PREFIQ_CUT_REQUESTS") or 200)
backends = pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)


def service(url: str, mode: str, ends: list[str], **options: Any) -> tuple[FastAPI, PrefiqDb]:
    """Return a service whose every request writes two rows, with time between them for the client to go."""
    prefiq = PrefiqDb(boot(url, mode), **options)
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)

    def row(number: int) -> dict[str, int]:
        return {"id": number, "quantity": 1}

    if mode == "async":

        @app.post("/pair/{number}", dependencies=[prefiq.transaction()])
        async def pair(number: int) -> None:
            await prefiq.db.execute(INSERT_STOCK, row(2 * number))
            await asyncio.sleep(0.003)
            await prefiq.db.execute(INSERT_STOCK, row(2 * number + 1))
            ends.append("ended")

        @app.post("/wait/{number}", dependencies=[prefiq.transaction()])
        async def wait(number: int, patient: bool = False) -> None:
            await prefiq.db.execute(INSERT_STOCK, row(number))
            ends.append("written")
            try:
                await asyncio.sleep(0.3 if patient else 60)
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise
            ends.append("ended")
    else:

        @app.post("/pair/{number}", dependencies=[prefiq.transaction()])
        def pair_sync(number: int) -> None:
            prefiq.db.execute(INSERT_STOCK, row(2 * number))
            prefiq.db.execute(INSERT_STOCK, row(2 * number + 1))
            ends.append("ended")

    return app, prefiq


async def cut(url: str, number: int, seconds: float, turns: asyncio.Semaphore) -> bool:
    """Send a request and go away after *seconds*; return whether an answer came before."""
    address = urlsplit(url)
    async with turns:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"POST /pair/{number} HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        try:
            async with asyncio.timeout(seconds):
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
        except TimeoutError:
            return False
        finally:
            writer.transport.abort()


async def cut_all(url: str) -> list[int]:
    """Return the numbers of those that got an answer in time."""
    turns, dice = asyncio.Semaphore(8), random.Random(7)
    waits = [dice.uniform(0, 0.04) for _ in range(REQUESTS)]
    answered = await asyncio.gather(*(cut(url, number, wait, turns) for number, wait in enumerate(waits)))
    return [number for number, was in enumerate(answered) if was]


@backends
@pytest.mark.parametrize("mode", ["async", "sync"])
async def test_requests_that_are_cut_leave_nothing_behind(backend: Backend, mode: str) -> None:
    """Both rows or none, both where an answer came; no connection is out, and the service serves."""
    ends: list[str] = []
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)
        app, prefiq = service(backend.url, mode, ends)
        with serve_asgi(app) as url:
            answered = await cut_all(url)
            assert wait_until(lambda: prefiq.db.stats().pool.checked_out == 0, timeout_seconds=30)
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.post(f"/pair/{REQUESTS}")).status_code == 200
            assert prefiq.db.stats().pool.checked_out == 0
        stored = {row.id for row in db.fetch_all("select id from stock")}
    assert all({2 * number, 2 * number + 1} <= stored for number in answered)
    assert all((number ^ 1) in stored for number in stored)


async def leave_when_written(url: str, path: str, ends: list[str]) -> None:
    """Send a request, and go away when its endpoint has written."""
    address = urlsplit(url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: service\r\nContent-Length: 0\r\n\r\n".encode())
    assert wait_until(lambda: ends == ["written"], timeout_seconds=30)
    writer.transport.abort()
    await asyncio.sleep(0)


@backends
async def test_a_client_that_goes_away_cancels_its_request(backend: Backend) -> None:
    ends: list[str] = []
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)
        app, prefiq = service(backend.url, "async", ends)
        with serve_asgi(app) as url:
            await leave_when_written(url, "/wait/1", ends)
            assert wait_until(lambda: prefiq.db.stats().pool.checked_out == 0, timeout_seconds=30)
        assert ends == ["written", "cancelled"]
        assert db.fetch_value(COUNT_STOCK) == 0


@backends
async def test_a_stream_that_is_cut_gives_its_connection_back(backend: Backend) -> None:
    """What the stream reads with holds a connection of its own while it reads, and no longer."""
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)
        db.execute_many(INSERT_STOCK, [{"id": number, "quantity": 1} for number in range(20_000)])
        prefiq = PrefiqDb(boot(backend.url, "async"))
        app = FastAPI(lifespan=prefiq.lifespan)
        app.add_middleware(prefiq.middleware)

        async def lines() -> AsyncIterator[str]:
            async with prefiq.db.stream("select id from stock", batch_size=100) as rows:
                async for row in rows:
                    yield f"{row.id:1000}\n"

        @app.get("/", dependencies=[prefiq.transaction()])
        async def export() -> StreamingResponse:
            return StreamingResponse(lines())

        with serve_asgi(app) as url:
            for _ in range(3):
                async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
                    async for _ in response.aiter_bytes():
                        assert prefiq.db.stats().pool.checked_out == 1
                        break
                assert wait_until(lambda: prefiq.db.stats().pool.checked_out == 0, timeout_seconds=30)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_control_nobody_is_cancelled_without_the_option(backend: Backend) -> None:
    """The option is what cancels: without it the endpoint ends, and commits what nobody waits for."""
    ends: list[str] = []
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)
        app, prefiq = service(backend.url, "async", ends, cancel_on_disconnect=False)
        with serve_asgi(app) as url:
            await leave_when_written(url, "/wait/1?patient=true", ends)
            assert wait_until(lambda: len(ends) == 2, timeout_seconds=30)
            assert wait_until(lambda: prefiq.db.stats().pool.checked_out == 0, timeout_seconds=30)
        assert ends == ["written", "ended"]
        assert db.fetch_value(COUNT_STOCK) == 1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_body_that_comes_slowly_reaches_the_endpoint_whole(backend: Backend) -> None:
    """We read ahead of the application, and hand on all that we read."""
    prefiq = PrefiqDb(boot(backend.url, "async"))
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)

    async def size(request: Request) -> JSONResponse:
        return JSONResponse(sum([len(part) async for part in request.stream()]))

    app.router.add_route("/size", size, methods=["POST"])

    async def parts() -> Any:
        for _ in range(20):
            yield b"x" * 50_000
            await asyncio.sleep(0)

    with serve_asgi(app) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/size", content=parts())).json() == 1_000_000
