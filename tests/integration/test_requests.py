"""A request's transaction, in each framework: committed before the response is sent, or an error for the client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI

from prefiq_db import AsyncDatabase, Database
from prefiq_db.testing.faults import COMMIT, CutReply, FaultProxy
from tests.conftest import Backend
from tests.integration.request_services import MARIADB_TABLES, ORPHAN, SERVICES, TABLES, Made
from tests.serving import serve_asgi
from tests.twins.support import upgrade_schema

COUNT = "select count(*) from child"
Serve = Callable[..., tuple[httpx.Client, Made]]


@pytest.fixture(params=list(SERVICES))
def serve(request: pytest.FixtureRequest, backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """Serve a framework's service on a real server; give a client of it."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:

        def start(
            url: str = "", settings: Any = (), options: Any = (), **transaction: Any
        ) -> tuple[httpx.Client, Made]:
            made = SERVICES[request.param](url or backend.url, dict(settings), dict(options), **transaction)
            address = stack.enter_context(made.serve(made.app))
            # A new connection each time: uvicorn closes one whose application has raised, after the answer to it.
            limits = httpx.Limits(max_keepalive_connections=0)
            return stack.enter_context(httpx.Client(base_url=address, limits=limits)), made

        yield start


@pytest.fixture
def rows(backend: Backend) -> Any:
    """The database as somebody else sees it; its tables are made."""
    with Database(backend.url) as db:
        for statement in MARIADB_TABLES if backend.name == "mariadb" else TABLES:
            db.execute(statement)
        yield db


deferring = pytest.mark.parametrize(
    "backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)
embedded = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


@deferring
def test_what_the_client_hears_is_what_happened(serve: Serve, rows: Database) -> None:
    """A 200 is committed; an exception, an error status and a COMMIT that fails leave nothing and are no 200."""
    client, made = serve()
    assert client.post("/child/1").status_code == 200
    assert rows.fetch_value(COUNT) == 1
    assert client.post("/child/2", params={"refuse": "raise", "status": 404}).status_code == 404
    assert client.post("/child/3", params={"status": 409}).status_code == 409
    assert client.post("/child/4", params={"refuse": "fail"}).status_code == 500
    lost = client.post("/child/5", params=ORPHAN)
    assert (lost.status_code, lost.json()) == (503, {"kind": "foreign_key"})  # by the service's own exception handler
    assert client.post("/child/6", params={"refuse": "raise", "status": 303}).status_code == 303
    assert rows.fetch_all("select id from child", into=dict) == [{"id": 1}]
    assert made.prefiq.db.stats().pool.checked_out == 0


@embedded
def test_a_streamed_response_holds_no_connection(serve: Serve, rows: Database) -> None:
    """The transaction ends before the first byte is sent, and what the stream reads is outside of it."""
    client, _ = serve()
    assert client.get("/stream").text.split() == ["0", "0"]


@pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_lost_reply_to_commit_is_no_200_unless_it_is_committed(
    serve: Serve, backend: Backend, rows: Database, exactly_once: bool
) -> None:
    assert backend.server is not None
    upgrade_schema(backend)
    with FaultProxy(backend.server) as proxy:
        client, _ = serve(proxy.url(backend.url), exactly_once=exactly_once)
        assert client.post("/child/1").status_code == 200
        with proxy.fault(CutReply(), on=COMMIT, times=1) as plan:
            told = client.post("/child/2")
        assert plan.hits == 1
    assert told.status_code == (200 if exactly_once else 503)
    if exactly_once:
        assert rows.fetch_value(COUNT) == 2


@embedded
def test_the_status_that_rolls_back_is_a_setting(serve: Serve, rows: Database) -> None:
    client, _ = serve(options={"rolls_back_from": 500})
    assert client.post("/child/1", params={"status": 409}).status_code == 409
    assert client.post("/child/2", params={"status": 500}).status_code == 500
    assert rows.fetch_value(COUNT) == 1


@deferring
def test_control_a_yield_dependency_loses_the_error_of_its_commit(
    backend: Backend, rows: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the middleware the same COMMIT fails after the client's 200."""
    service = FastAPI()

    async def naive() -> AsyncIterator[Any]:
        async with AsyncDatabase(backend.url) as db, db.transaction() as tx:
            yield tx

    in_transaction = Depends(naive)

    @service.post("/child/{number}")
    async def add(number: int, tx: Any = in_transaction) -> None:
        await tx.execute("insert into child (id, parent) values (:id, 99)", {"id": number})

    with serve_asgi(service) as url:
        assert httpx.post(f"{url}/child/1").status_code == 200
    assert rows.fetch_value(COUNT) == 0
    assert "ForeignKeyViolationError" in caplog.text
