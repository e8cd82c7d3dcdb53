"""What is Litestar's own about the transaction of a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar, Response, post

from prefiq_db import Database
from prefiq_db.integrations.litestar import PrefiqDb
from tests.integration.request_services import boot
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK

ROW = {"id": 1, "quantity": 1}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path}/litestar.db"


@pytest.fixture
def stock(url: str) -> Iterator[Database]:
    with Database(url) as db:
        db.execute(CREATE_STOCK)
        yield db


def _fail(response: Response[Any]) -> Response[Any]:
    raise LookupError("a mistake")


def _calm(request: Any, error: Exception) -> Response[str]:
    return Response("never mind", status_code=200)


@pytest.mark.parametrize("path", ["/serialized", "/after"])
async def test_an_exception_behind_the_handler_commits_nothing(url: str, stock: Database, path: str) -> None:
    prefiq = PrefiqDb(boot(url, "async"))

    @post("/serialized", status_code=200)
    @prefiq.transactional
    async def serialized() -> object:
        await prefiq.db.execute(INSERT_STOCK, ROW)
        return object()

    @post("/after", status_code=200, after_request=_fail)
    @prefiq.transactional
    async def after() -> str:
        await prefiq.db.execute(INSERT_STOCK, ROW)
        return "done"

    app = Litestar(
        [serialized, after],
        lifespan=[prefiq.lifespan],
        middleware=[prefiq.middleware],
        exception_handlers={Exception: _calm},
        logging_config=None,
        openapi_config=None,
    )
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,  # type: ignore[arg-type]
    ):
        answer = await client.post(path)
        assert (answer.status_code, answer.text) == (200, "never mind")
    assert stock.fetch_value(COUNT_STOCK) == 0
