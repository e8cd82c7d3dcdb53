"""The scope of a request, and the ways to lose data around one that are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from prefiq_db import AsyncDatabase, AsyncTransaction, Database, Transaction
from prefiq_db.errors import (
    ClosedError,
    ForeignKeyViolationError,
    PrefiqDbError,
    ReadOnlyError,
    TransactionOwnershipError,
    TransactionTimeoutError,
    UsageError,
)
from prefiq_db.events import StatementFinished
from prefiq_db.integrations import starlette as for_starlette
from prefiq_db.integrations.fastapi import PrefiqDb
from prefiq_db.transaction import Outcome
from tests.integration.request_services import boot
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK

ROW = {"id": 1, "quantity": 1}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/scope.db"


def made(url: str, mode: str = "async", settings: Any = (), **options: Any) -> tuple[FastAPI, PrefiqDb]:
    prefiq = PrefiqDb(boot(url, mode, **dict(settings)), **options)
    app = FastAPI(lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)
    return app, prefiq


@asynccontextmanager
async def client_of(app: Any, *, raises: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


@pytest.fixture
def stock(url: str) -> Iterator[Database]:
    with Database(url) as db:
        db.execute(CREATE_STOCK)
        yield db


# --- what a request carries ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["async", "sync"])
async def test_every_statement_of_a_request_has_its_id_and_its_route(
    url: str, stock: Database, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In events, in the slow log, in the table of holders, and in SQL comments, which keep the id back."""
    app, prefiq = made(url, mode, {"sql_comments": True, "slow_query_seconds": 1e-9})
    seen: list[Any] = []

    @app.get("/stock/{number}", dependencies=[prefiq.transaction()])
    def read(number: int) -> None:
        prefiq.db.fetch_value(COUNT_STOCK)
        (holder,) = prefiq.db.stats().holders
        seen.append(holder.tags)

    @app.get("/async/{number}", dependencies=[prefiq.transaction()])
    async def read_async(number: int) -> None:
        await prefiq.db.fetch_value(COUNT_STOCK)
        (holder,) = prefiq.db.stats().holders
        seen.append(holder.tags)

    path = "/async/{number}" if mode == "async" else "/stock/{number}"
    async with client_of(app) as client:
        events: list[StatementFinished] = []

        @prefiq.db.hooks.after
        def note(event: StatementFinished) -> None:
            events.append(event)

        await client.get(path.format(number=1), headers={"X-Request-ID": "order-7"})
        tags = {"request_id": "order-7", "route": path, "method": "GET"}
        assert [dict(event.tags) for event in events if event.operation == "SELECT"] == [tags]
        assert seen == [tags]
        slow = [record for record in caplog.records if record.name == "prefiq_db.slow" and hasattr(record, "tags")]
        assert {record.tags for record in slow} == {f"request_id=order-7,route={path},method=GET"}
        await client.get(path.format(number=1), headers={"X-Request-ID": "a b\n"})
        assert len(seen[1]["request_id"]) == 32  # what is no plain id gets one of ours


async def test_an_id_makes_no_new_statement_and_a_route_does(url: str, stock: Database) -> None:
    from prefiq_db.execution.comments import comment
    from prefiq_db.tags import Tags

    tags = Tags({"request_id": "7", "route": "/a"}, ["request_id"])
    assert comment("select 1", tags) == "select 1 /*route='%2Fa'*/"
    assert comment("select 1", dict(tags)) == "select 1 /*request_id='7',route='%2Fa'*/"


async def test_tags_and_limits_of_a_block_inside_add_to_those_of_the_request(url: str, stock: Database) -> None:
    app, prefiq = made(url, timeout=5)
    limits: list[float | None] = []
    tags: list[Any] = []

    @app.get("/")
    async def read() -> None:
        view = prefiq.db.using(timeout=60, tags={"job": "report"})._core.overrides()
        limits.append(view.timeout)
        tags.append(set(view.tags))
        for timeout in (60, 1):
            with prefiq.db.override(timeout=timeout, tags={"job": "report"}):
                given = prefiq.db._core.overrides()
                limits.append(given.timeout)
                tags.append(set(given.tags))

    async with client_of(app) as client:
        await client.get("/")
    assert all(limit is not None and 0 < limit <= 5 for limit in limits)
    assert limits[2] == 1
    assert tags == [{"request_id", "route", "method", "job"}] * 3


async def test_a_client_may_ask_for_less_time_and_not_for_more(url: str, stock: Database) -> None:
    app, prefiq = made(url, timeout=5, timeout_header="X-Timeout")
    left: list[float] = []

    @app.get("/")
    async def read(background: BackgroundTasks) -> None:
        left.append(prefiq.db._core.overrides().timeout)
        background.add_task(lambda: left.append(prefiq.db._core.overrides().timeout))

    async with client_of(app) as client:
        for asked in ("2", "60", "nan", "-1", "soon"):
            await client.get("/", headers={"X-Timeout": asked})
    assert 0 < left[0] <= 2
    assert all(2 < each <= 5 for each in left[2::2])
    assert left[1::2] == [None] * 5  # what follows the response has no deadline


async def test_a_transaction_is_not_committed_after_its_requests_deadline(url: str, stock: Database) -> None:
    app, prefiq = made(url, timeout=0.2)

    @app.post("/", dependencies=[prefiq.transaction()])
    async def write() -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)
        await asyncio.sleep(0.3)

    async with client_of(app) as client:
        with pytest.raises(TransactionTimeoutError):
            await client.post("/")
    assert stock.fetch_value(COUNT_STOCK) == 0


async def test_a_safe_method_writes_only_where_it_says_so(url: str, stock: Database) -> None:
    app, prefiq = made(url)
    guarded, prefiq_guarded = made(url, read_only_requests=True)

    @app.get("/transaction", dependencies=[prefiq.transaction()])
    async def write() -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)

    @app.get("/meant", dependencies=[prefiq.transaction(read_only=False)])
    async def write_on_purpose() -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)

    @guarded.get("/alone")
    @guarded.post("/alone")
    async def write_alone() -> None:
        await prefiq_guarded.db.execute(INSERT_STOCK, {**ROW, "id": 2})

    async with client_of(app) as client:
        with pytest.raises(ReadOnlyError):
            await client.get("/transaction")
        assert stock.fetch_value(COUNT_STOCK) == 0
        assert (await client.get("/meant")).status_code == 200
    async with client_of(guarded) as client:
        with pytest.raises(ReadOnlyError):
            await client.get("/alone")
        assert (await client.post("/alone")).status_code == 200
    assert stock.fetch_value(COUNT_STOCK) == 2


@pytest.mark.parametrize("mode", ["async", "sync"])
async def test_a_client_in_the_same_process_hears_of_a_failed_commit_too(url: str, stock: Database, mode: str) -> None:
    stock.execute("create table line (item integer references stock (id) deferrable initially deferred)")
    app, prefiq = made(url, mode)

    @app.post("/async", dependencies=[prefiq.transaction()])
    async def order() -> None:
        await prefiq.db.execute("insert into line (item) values (7)")

    @app.post("/sync", dependencies=[prefiq.transaction()])
    def order_sync() -> None:
        prefiq.db.execute("insert into line (item) values (7)")

    async with client_of(app) as client:
        with pytest.raises(ForeignKeyViolationError):
            await client.post(f"/{mode}")
    async with client_of(app, raises=False) as client:
        assert (await client.post(f"/{mode}")).status_code == 500
    assert stock.fetch_value("select count(*) from line") == 0


# --- what a request's transaction is ---------------------------------------------------------------


@pytest.mark.parametrize("inner", [False, True])
async def test_the_verbs_of_db_are_in_the_transaction_wherever_they_run(url: str, stock: Database, inner: bool) -> None:
    """In the dependency, the endpoint, a nested block; also with a middleware that makes another task of it."""
    app, prefiq = made(url, "sync")
    within = prefiq.transaction()
    outcomes: list[Outcome] = []
    if inner:

        class Another(BaseHTTPMiddleware):
            async def dispatch(self, request: Request, call_next: Any) -> Any:
                return await call_next(request)

        app.user_middleware.append(Middleware(Another))  # behind ours, closer to the endpoint

    def first(tx: Transaction = within) -> Transaction:
        prefiq.db.execute(INSERT_STOCK, ROW)
        return tx

    after_first = Depends(first)

    @app.post("/")
    def write(tx: Transaction = after_first, again: Transaction = within) -> int:
        assert again is tx is prefiq.tx
        with prefiq.db.transaction():
            prefiq.db.execute(INSERT_STOCK, {**ROW, "id": 2})
        prefiq.db.run_in_transaction(lambda inner: inner.execute(INSERT_STOCK, {**ROW, "id": 3}))
        assert stock.fetch_value(COUNT_STOCK) == 0
        tx.on_commit(lambda: outcomes.append(tx.outcome))
        count: int = prefiq.db.fetch_value(COUNT_STOCK)
        return count

    async with client_of(app) as client:
        assert (await client.post("/")).json() == 3
        assert outcomes == [Outcome.COMMITTED]
    assert stock.fetch_value(COUNT_STOCK) == 3


async def test_requests_that_wait_for_connections_leave_the_threads_to_who_has_them(url: str, stock: Database) -> None:
    """More requests than there are threads for endpoints: those in a transaction must still get one."""
    app, prefiq = made(url, "sync", {"pool_timeout_seconds": 30})

    @app.post("/{number}", dependencies=[prefiq.transaction()])
    def write(number: int) -> None:
        prefiq.db.execute(INSERT_STOCK, {**ROW, "id": number})

    async with client_of(app) as client:
        responses = await asyncio.gather(*(client.post(f"/{number}") for number in range(60)))
        assert {response.status_code for response in responses} == {200}
        assert prefiq.db.stats().pool.timeout_count == 0


async def test_work_after_the_response_is_outside_the_transaction(url: str, stock: Database) -> None:
    app, prefiq = made(url)
    within = prefiq.transaction()
    seen: list[int] = []

    @app.post("/")
    async def write(background: BackgroundTasks, tx: AsyncTransaction = within) -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)

        async def later() -> None:
            seen.append(await prefiq.db.fetch_value(COUNT_STOCK))
            with pytest.raises(ClosedError):
                await tx.fetch_value(COUNT_STOCK)

        background.add_task(later)

    async with client_of(app) as client:
        assert (await client.post("/")).status_code == 200
        assert seen == [1]
        assert prefiq.db.stats().pool.checked_out == 0


async def test_tasks_beside_the_endpoint_may_not_slip_into_its_transaction(url: str, stock: Database) -> None:
    app, prefiq = made(url)

    @app.post("/", dependencies=[prefiq.transaction()])
    async def write() -> None:
        await asyncio.gather(*(prefiq.db.execute(INSERT_STOCK, {**ROW, "id": number}) for number in (1, 2)))

    async with client_of(app) as client:
        with pytest.raises(TransactionOwnershipError):
            await client.post("/")
    assert stock.fetch_value(COUNT_STOCK) == 0


async def test_a_ready_database_stays_its_owners(url: str, stock: Database) -> None:
    async with AsyncDatabase(url) as db:
        prefiq = for_starlette.PrefiqDb(db)

        @prefiq.transactional(isolation="SERIALIZABLE")
        async def write(request: Request) -> JSONResponse:
            await db.execute(INSERT_STOCK, ROW)
            return JSONResponse(prefiq.request.request_id)

        app = Starlette(routes=[Route("/", write, methods=["POST"])], lifespan=prefiq.lifespan)
        app.add_middleware(prefiq.middleware)
        async with client_of(app) as client:
            assert (await client.post("/", headers={"X-Request-ID": "7"})).json() == "7"
        assert await db.fetch_value(COUNT_STOCK) == 1


# --- what is refused -------------------------------------------------------------------------------


def naive_service(url: str, mode: str) -> tuple[FastAPI, PrefiqDb]:
    app, prefiq = made(url, mode)

    def by_thread() -> Iterator[Transaction]:
        with prefiq.db.transaction() as tx:
            yield tx

    async def by_task() -> AsyncIterator[AsyncTransaction]:
        async with prefiq.db.transaction() as tx:
            yield tx

    of_request, of_function = Depends(by_thread), Depends(by_thread, scope="function")

    @app.post("/outside", dependencies=[of_function])
    def outside() -> None:
        prefiq.db.execute(INSERT_STOCK, ROW)

    @app.post("/late")
    def late(tx: Transaction = of_request) -> None:
        tx.execute(INSERT_STOCK, ROW)

    @app.post("/async-late", dependencies=[Depends(by_task)])
    async def async_late() -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)

    @app.post("/explicit")
    def explicit(tx: Transaction = of_function) -> None:
        with tx.bind():
            prefiq.db.execute(INSERT_STOCK, ROW)

    return app, prefiq


@pytest.mark.parametrize(
    ("path", "mode", "why"),
    [
        ("/outside", "sync", "would be outside it"),
        ("/late", "sync", "after the response"),
        ("/async-late", "async", "after the response"),
    ],
)
async def test_a_transaction_that_loses_data_is_refused(
    url: str, stock: Database, path: str, mode: str, why: str
) -> None:
    """A statement beside the dependency's transaction; a COMMIT that comes after the 200."""
    app, prefiq = naive_service(url, mode)
    async with client_of(app, raises=False) as client:
        assert (await client.post(path)).status_code == 500
        assert prefiq.db.stats().pool.checked_out == 0
    async with client_of(app) as client:
        with pytest.raises(TransactionOwnershipError, match=why):
            await client.post(path)
    assert stock.fetch_value(COUNT_STOCK) == 0


async def test_a_transaction_of_ones_own_that_loses_nothing_is_allowed(url: str, stock: Database) -> None:
    """With the function scope its COMMIT comes before the response, and what uses its tx is inside."""
    app, _ = naive_service(url, "sync")
    async with client_of(app) as client:
        assert (await client.post("/explicit")).status_code == 200
    assert stock.fetch_value(COUNT_STOCK) == 1


async def test_threads_of_a_request_may_work_at_the_same_time(url: str, stock: Database) -> None:
    """A transaction that another thread is just running is none that was left open."""
    app, prefiq = made(url, "sync")

    def write(number: int) -> None:
        with prefiq.db.transaction():
            prefiq.db.execute(INSERT_STOCK, {**ROW, "id": number})
            prefiq.db.fetch_value(COUNT_STOCK)

    @app.post("/")
    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(write, number) for number in range(8)))

    async with client_of(app) as client:
        assert (await client.post("/")).status_code == 200
    assert stock.fetch_value(COUNT_STOCK) == 8


async def test_an_endpoint_that_yields_has_no_transaction(url: str, stock: Database) -> None:
    app, prefiq = made(url)

    @app.post("/", dependencies=[prefiq.transaction()])
    async def write() -> AsyncIterator[int]:
        await prefiq.db.execute(INSERT_STOCK, ROW)
        yield 1

    async with client_of(app) as client:
        with pytest.raises(UsageError, match="yields"):
            await client.post("/")
    assert stock.fetch_value(COUNT_STOCK) == 0
    with pytest.raises(UsageError):
        prefiq.transactional(write)


async def test_without_the_middleware_there_is_no_transaction(url: str, stock: Database) -> None:
    prefiq = PrefiqDb(boot(url, "async"))
    app = FastAPI(lifespan=prefiq.lifespan)

    @app.post("/", dependencies=[prefiq.transaction()])
    async def write() -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)

    async with client_of(app) as client:
        with pytest.raises(UsageError, match=r"app\.add_middleware\(prefiq\.middleware\)"):
            await client.post("/")
    assert stock.fetch_value(COUNT_STOCK) == 0


@pytest.mark.parametrize("where", ["app", "router", "mounted"])
async def test_the_decorator_above_the_route_is_refused(url: str, stock: Database, where: str) -> None:
    app, prefiq = made(url)
    router, inner = APIRouter(), FastAPI()

    @prefiq.transactional
    @{"app": app, "router": router, "mounted": inner}[where].post("/")
    async def write() -> None:
        await prefiq.db.execute(INSERT_STOCK, ROW)

    app.include_router(router)
    app.mount("/inner", inner)
    with pytest.raises(UsageError, match="write: @transactional stands above the route"):
        async with client_of(app):
            pass


async def test_a_def_endpoint_with_an_asynchronous_database_is_refused(url: str, stock: Database) -> None:
    prefiq = for_starlette.PrefiqDb(boot(url, "async"))

    @prefiq.transactional
    def write(request: Request) -> JSONResponse:
        return JSONResponse({})

    app = Starlette(routes=[Route("/", write)], lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)
    async with client_of(app) as client:
        with pytest.raises(UsageError, match="async def"):
            await client.get("/")


def test_a_transaction_that_is_not_called_is_refused(url: str) -> None:
    app, prefiq = made(url)
    for wrong in (prefiq.transaction, Depends(prefiq.transaction)):
        with pytest.raises(UsageError, match=r"call it.*prefiq\.transaction\(\)"):
            app.post("/", dependencies=[wrong])(lambda: None)


@pytest.mark.parametrize("option", ["attempts", "retry", "durable", "no_such"])
def test_an_option_that_no_request_can_keep_is_refused(option: str) -> None:
    prefiq = PrefiqDb()
    for method in (prefiq.transaction, prefiq.transactional):
        with pytest.raises(UsageError, match=option):
            method(**{option: 3})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout", 0),
        ("timeout_header", "a header"),
        ("id_header", 7),
        ("rolls_back_from", "400"),
        ("rolls_back_from", -5),
        ("safe_methods", 5),
        ("safe_methods", [5]),
        ("no_such", 5),
        ("source", FastAPI()),
        ("source", 5),
        ("cancel_on_disconnect", 1),
        ("read_only_requests", None),
    ],
)
def test_a_wrong_option_is_refused_when_it_is_given(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option.split("_")[0]):
        PrefiqDb(**{option: value})


@pytest.mark.parametrize(("asked", "seconds"), [("2.5", 2.5), (".5", 0.5), ("1_0", 20), ("1e0", 20), ("inf", 20)])
def test_what_a_client_asks_for_is_plain_seconds(asked: str, seconds: float) -> None:
    assert PrefiqDb(timeout=20).options.seconds(asked) == seconds


async def test_a_websocket_has_no_transaction_of_a_request(url: str, stock: Database) -> None:
    app, prefiq = made(url)

    within = prefiq.transaction()

    @app.websocket("/dependency")
    async def dependency(socket: WebSocket, tx: Any = within) -> None: ...

    @app.websocket("/decorator")
    @prefiq.transactional
    async def decorator(socket: WebSocket) -> None: ...

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None: ...

    async with client_of(app):
        for path in ("/dependency", "/decorator"):
            scope = {"type": "websocket", "path": path, "headers": [], "query_string": b"", "subprotocols": []}
            with pytest.raises(UsageError, match="WebSocket"):
                await app(scope, receive, send)


async def test_before_the_start_and_after_the_end_there_is_no_database(url: str, stock: Database) -> None:
    app, prefiq = made(url)
    for _ in range(2):
        with pytest.raises(ClosedError):
            _ = prefiq.db
        with pytest.raises(ClosedError):
            _ = prefiq.container
        async with client_of(app):
            assert prefiq.container.resolve("db") is prefiq.db
            with pytest.raises(PrefiqDbError, match="there is no database 'other'"):
                prefiq.database("other")
