"""A stock service in Litestar: each request in a transaction of its own, and a download that holds no connection.

Run it with any ASGI server: ``uvicorn --app-dir examples --factory service_litestar:make_app``. Set ``DB_URL`` to use a
server instead of SQLite.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, get, put
from litestar.exceptions import HTTPException
from litestar.params import FromPath, FromQuery
from litestar.response import Stream

from prefiq_db import bootstrap_async
from prefiq_db.integrations.litestar import PrefiqDb


def make_app(database: dict[str, Any] | None = None) -> Litestar:
    """Return the service; *database* has settings."""
    prefiq = PrefiqDb(
        lambda: bootstrap_async(arguments={"database": {"mode": "async", **(database or {})}}),
        timeout=10,
        timeout_header="X-Timeout",
    )

    @asynccontextmanager
    async def lifespan(service: Litestar) -> AsyncIterator[None]:
        async with prefiq.lifespan(service):
            await prefiq.db.execute(
                "create table if not exists stock (sku varchar(20) primary key, quantity integer not null)"
            )
            yield

    @put("/stock/{sku:str}")
    @prefiq.transactional  # below the route
    async def put_stock(sku: FromPath[str], quantity: FromQuery[int]) -> dict[str, Any]:
        row = {"sku": sku, "quantity": quantity}
        await prefiq.db.execute("delete from stock where sku = :sku", {"sku": sku})
        await prefiq.db.execute("insert into stock (sku, quantity) values (:sku, :quantity)", row)
        if quantity < 0:
            raise HTTPException("less than nothing", status_code=422)  # rolled back
        return row

    @get("/stock.csv")
    async def export() -> Stream:
        async def lines() -> AsyncIterator[str]:
            async with prefiq.db.stream("select sku, quantity from stock order by sku") as rows:
                async for row in rows:
                    yield f"{row.sku};{row.quantity}\n"

        return Stream(lines(), media_type="text/csv")

    return Litestar(
        [put_stock, export],
        lifespan=[lifespan],
        middleware=[prefiq.middleware],
        openapi_config=None,
        logging_config=None,
    )
