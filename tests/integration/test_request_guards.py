"""What a request leaves open, and who answers for it: whichever task, thread or middleware it was."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

from prefiq_db import Database
from prefiq_db.errors import TransactionOwnershipError
from prefiq_db.integrations.asgi_requests import _Listener
from prefiq_db.integrations.fastapi import PrefiqDb
from tests.integration.request_services import boot
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK

URL = "sqlite:///guards.db"
ROW = {"id": 1, "quantity": 1}


class _Base(DeclarativeBase):
    pass


class Stock(_Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    quantity: Mapped[int]


@pytest.fixture
def stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.chdir(tmp_path)
    with Database(URL) as db:
        db.execute(CREATE_STOCK)
        yield db


def made(mode: str = "async", **options: Any) -> tuple[FastAPI, PrefiqDb]:
    prefiq = PrefiqDb(boot(URL, mode), **options)
    return FastAPI(lifespan=prefiq.lifespan), prefiq


async def ask(app: FastAPI, prefiq: PrefiqDb, *paths: str, method: str = "POST") -> list[int | str]:
    """Install the middleware as the outermost one; return the statuses, or the errors that leave the application."""
    app.add_middleware(prefiq.middleware)
    transport = httpx.ASGITransport(app)
    heard: list[int | str] = []
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        for path in paths:
            try:
                heard.append((await client.request(method, path)).status_code)
            except Exception as error:
                heard.append(type(error).__name__)
    return heard


def passed_through(app: FastAPI) -> None:
    """Add a middleware that runs the endpoint in another task."""

    @app.middleware("http")
    async def passes(request: Request, call_next: Any) -> Any:
        return await call_next(request)


REFUSED = TransactionOwnershipError.__name__


@pytest.mark.parametrize("inner", [False, True])
async def test_a_transaction_left_open_in_another_task_is_refused(stock: Database, inner: bool) -> None:
    app, prefiq = made()

    async def opened() -> AsyncIterator[None]:
        async with prefiq.db.transaction():
            yield

    @app.post("/", dependencies=[Depends(opened)])
    async def write() -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)

    if inner:
        passed_through(app)
    assert await ask(app, prefiq, "/") == [REFUSED]
    assert stock.fetch_value(COUNT_STOCK) == 0


async def test_a_thread_that_runs_the_same_function_for_another_request_is_no_alibi(stock: Database) -> None:
    """The thread that opened the transaction is running the same dependency again, for the next request."""
    app, prefiq = made("sync")
    first_yielded, second_runs, first_answered = threading.Event(), threading.Event(), threading.Event()
    turn: list[int] = []

    def opened() -> Iterator[None]:
        turn.append(1)
        if len(turn) == 2:
            second_runs.set()
            first_answered.wait(10)
        with prefiq.db.transaction(read_only=True):
            yield

    async def hold() -> None:
        if len(turn) == 1:
            first_yielded.set()
            await asyncio.to_thread(second_runs.wait, 10)

    @app.post("/", dependencies=[Depends(opened), Depends(hold)])
    async def write() -> None:
        pass

    app.add_middleware(prefiq.middleware)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app, False), base_url="http://service") as client,
    ):
        first = asyncio.create_task(client.post("/"))
        await asyncio.to_thread(first_yielded.wait, 10)
        second = asyncio.create_task(client.post("/"))
        assert (await first).status_code == 500
        first_answered.set()
        assert (await second).status_code == 500


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("beside", [False, True])
async def test_a_session_with_uncommitted_work_is_refused(stock: Database, inner: bool, beside: bool) -> None:
    """Sent or not yet; alone, or in a savepoint of the request's transaction. What was only read is let through."""
    app, prefiq = made()
    app.router.dependencies = [prefiq.transaction(read_only=False)] if beside else []

    async def opened() -> AsyncIterator[Any]:
        async with prefiq.db.session() as session:
            yield session
            await session.commit()

    async def opened_to_read() -> AsyncIterator[Any]:
        async with prefiq.db.session() as session:
            yield session

    of_session, of_reading_session = Depends(opened), Depends(opened_to_read)

    @app.post("/sent")
    async def sent(session: Any = of_session) -> None:
        await session.execute(text(INSERT_STOCK), ROW)

    @app.post("/kept")
    async def kept(session: Any = of_session) -> None:
        session.add(Stock(**ROW))

    @app.post("/read")
    async def read(session: Any = of_reading_session) -> None:
        assert await session.get(Stock, 1) is None

    @app.post("/committed")
    async def committed(session: Any = of_session) -> None:
        session.add(Stock(**ROW))
        await session.commit()

    if inner:
        passed_through(app)
    assert await ask(app, prefiq, "/sent", "/kept", "/read", "/committed") == [REFUSED, REFUSED, 200, 200]
    assert stock.fetch_value(COUNT_STOCK) == 1


async def test_a_session_of_the_sync_api_is_refused_too(stock: Database) -> None:
    app, prefiq = made("sync")

    def opened() -> Iterator[Any]:
        with prefiq.db.session() as session:
            yield session
            session.commit()

    of_session = Depends(opened)

    @app.post("/")
    def write(session: Any = of_session) -> None:
        session.add(Stock(**ROW))
        session.flush()

    assert await ask(app, prefiq, "/") == [REFUSED]
    assert stock.fetch_value(COUNT_STOCK) == 0


async def test_a_body_that_is_repeated_for_ever_does_not_stop_the_loop() -> None:
    calls = 0

    async def again() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        assert calls < 100, "it is read for ever"
        return {"type": "http.request", "body": b"all", "more_body": False}

    listener = _Listener(again, lambda: None)
    await listener.listen()
    assert calls == 2
    assert [(await listener.receive())["body"] for _ in range(3)] == [b"all"] * 3


async def test_who_interrupts_a_commit_may_answer_with_an_error(stock: Database) -> None:
    """A time limit that passes during COMMIT: its 504 gets through, and a 200 would not."""
    app, prefiq = made()

    @app.post("/{status}", dependencies=[prefiq.transaction()])
    async def write(status: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        await prefiq.db.execute(INSERT_STOCK, {**ROW, "id": status})
        prefiq.tx.on_commit(task.cancel)

    class Limit:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await self.app(scope, receive, send)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                await JSONResponse({}, int(scope["path"][1:]))(scope, receive, send)

    app.add_middleware(Limit)
    assert await ask(app, prefiq, "/504", "/200") == [504, "OutcomeUnknownError"]


async def test_a_stream_that_reads_before_the_commit_is_an_error_and_no_empty_200(stock: Database) -> None:
    app, prefiq = made()

    @app.post("/", dependencies=[prefiq.transaction()])
    async def write() -> StreamingResponse:
        await prefiq.db.execute(INSERT_STOCK, ROW)

        async def lines() -> AsyncIterator[str]:
            yield str(await prefiq.db.fetch_value(COUNT_STOCK))

        return StreamingResponse(lines())

    @app.middleware("http")
    async def looks(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        await asyncio.sleep(0.05)  # so that the stream comes to its first statement
        return response

    assert await ask(app, prefiq, "/") == [REFUSED]
    assert stock.fetch_value(COUNT_STOCK) == 0


async def test_a_middleware_inside_may_not_write_beside_the_open_transaction(stock: Database) -> None:
    app, prefiq = made()

    @app.post("/", dependencies=[prefiq.transaction()])
    async def write() -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)

    @app.middleware("http")
    async def audits(request: Request, call_next: Any) -> Any:
        response = await call_next(request)
        await prefiq.db.execute(INSERT_STOCK, {**ROW, "id": 2})
        return response

    assert await ask(app, prefiq, "/") == [REFUSED]
    assert stock.fetch_value(COUNT_STOCK) == 0


async def test_a_task_that_outlives_a_failed_request_has_no_deadline(stock: Database) -> None:
    app, prefiq = made(timeout=5)
    scopes: list[Any] = []

    @app.post("/")
    async def fail() -> None:
        scopes.append(prefiq.request)
        raise LookupError("a mistake")

    assert await ask(app, prefiq, "/") == ["LookupError"]
    assert scopes[0].deadline is None


async def test_a_task_in_a_transaction_of_its_own_is_none_that_was_left_open(stock: Database) -> None:
    app, prefiq = made()
    tasks: list[asyncio.Task[None]] = []
    begun, answered = asyncio.Event(), asyncio.Event()

    async def beside() -> None:
        async with prefiq.db.transaction():
            begun.set()
            await answered.wait()

    @app.post("/")
    async def start() -> None:
        tasks.append(asyncio.create_task(beside()))
        await begun.wait()

    @app.post("/end")
    async def end() -> None:
        answered.set()
        await tasks[0]

    assert await ask(app, prefiq, "/", "/end") == [200, 200]
