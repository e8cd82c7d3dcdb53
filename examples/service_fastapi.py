"""A stock service in FastAPI: a transaction per request, a hook, health endpoints, and the status page ``/db``.

Run it with any ASGI server: ``uvicorn --app-dir examples --factory service_fastapi:make_app``, then open
``/healthz``, ``/readyz`` and ``/db``. Set ``DB_URL`` to use a server instead of SQLite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from prefiq_db import bootstrap_async
from prefiq_db.events import StatementFinished
from prefiq_db.integrations.fastapi import PrefiqDb, mount_health


def make_app(database: dict[str, Any] | None = None, **health: Any) -> FastAPI:
    """Return the service; *database* has settings, *health* options of the health endpoints."""
    operations: Counter[str] = Counter()
    prefiq = PrefiqDb(
        lambda: bootstrap_async(arguments={"database": {"mode": "async", **(database or {})}}), timeout=10
    )

    @asynccontextmanager
    async def lifespan(service: FastAPI) -> AsyncIterator[None]:
        async with prefiq.lifespan(service):
            db = prefiq.db

            @db.hooks.after
            def count(event: StatementFinished) -> None:
                operations[event.operation] += 1

            await db.execute(
                "create table if not exists stock (sku varchar(20) primary key, quantity integer not null)"
            )
            # The page shows statements and lines of code: in production, put it behind your own login.
            mount_health(service, prefiq.container, page=True, **health)
            yield

    service = FastAPI(title="stock", lifespan=lifespan)
    service.add_middleware(prefiq.middleware)

    @service.put("/stock/{sku}", dependencies=[prefiq.transaction()])
    async def put(sku: str, quantity: int) -> dict[str, Any]:
        await prefiq.db.execute("delete from stock where sku = :sku", {"sku": sku})
        await prefiq.db.execute(
            "insert into stock (sku, quantity) values (:sku, :quantity)", {"sku": sku, "quantity": quantity}
        )
        return {"sku": sku, "quantity": quantity}

    @service.get("/stock")
    async def stock() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await prefiq.db.fetch_all(
            "select sku, quantity from stock order by sku", into=dict
        )
        return rows

    @service.get("/operations")
    async def counted() -> dict[str, int]:
        return dict(operations)

    return service
