"""A stock service in Starlette: each request in a transaction of its own, and a download that holds no connection.

Run it with any ASGI server: ``uvicorn --app-dir examples --factory service_starlette:make_app``. Set ``DB_URL`` to
use a server instead of SQLite.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from prefiq_db import bootstrap_async
from prefiq_db.integrations.starlette import PrefiqDb


def make_app(database: dict[str, Any] | None = None) -> Starlette:
    """Return the service; *database* has settings."""
    prefiq = PrefiqDb(
        lambda: bootstrap_async(arguments={"database": {"mode": "async", **(database or {})}}),
        timeout=10,
        timeout_header="X-Timeout",
    )

    @asynccontextmanager
    async def lifespan(service: Starlette) -> AsyncIterator[None]:
        async with prefiq.lifespan(service):
            await prefiq.db.execute(
                "create table if not exists stock (sku varchar(20) primary key, quantity integer not null)"
            )
            yield

    @prefiq.transactional
    async def put(request: Request) -> JSONResponse:
        row = {"sku": request.path_params["sku"], "quantity": int(request.query_params["quantity"])}
        await prefiq.db.execute("delete from stock where sku = :sku", {"sku": row["sku"]})
        await prefiq.db.execute("insert into stock (sku, quantity) values (:sku, :quantity)", row)
        if row["quantity"] < 0:
            return JSONResponse({"error": "less than nothing"}, 422)  # an error status: rolled back
        return JSONResponse(row)

    async def export(request: Request) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async with prefiq.db.stream("select sku, quantity from stock order by sku") as rows:
                async for row in rows:
                    yield f"{row.sku};{row.quantity}\n"

        return StreamingResponse(lines(), media_type="text/csv")

    routes = [Route("/stock/{sku}", put, methods=["PUT"]), Route("/stock.csv", export)]
    service = Starlette(routes=routes, lifespan=lifespan)
    service.add_middleware(prefiq.middleware)
    return service
