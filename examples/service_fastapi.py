"""A stock service in FastAPI with a hook, health endpoints for Kubernetes, and the status page ``/db``.

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
from prefiq_db.integrations.starlette import mount_health


def make_app(database: dict[str, Any] | None = None, **health: Any) -> FastAPI:
    """Return the service; *database* has settings, *health* options of the health endpoints."""
    operations: Counter[str] = Counter()

    @asynccontextmanager
    async def lifespan(service: FastAPI) -> AsyncIterator[None]:
        async with await bootstrap_async(arguments={"database": {"mode": "async", **(database or {})}}) as container:
            service.state.db = db = container.resolve("db")

            @db.hooks.after
            def count(event: StatementFinished) -> None:
                operations[event.operation] += 1

            await db.execute(
                "create table if not exists stock (sku varchar(20) primary key, quantity integer not null)"
            )
            # The page shows statements and lines of code: in production, put it behind your own login.
            mount_health(service, container, page=True, **health)
            yield

    service = FastAPI(title="stock", lifespan=lifespan)

    @service.put("/stock/{sku}")
    async def put(sku: str, quantity: int) -> dict[str, Any]:
        async with service.state.db.transaction() as tx:
            await tx.execute("delete from stock where sku = :sku", {"sku": sku})
            await tx.execute(
                "insert into stock (sku, quantity) values (:sku, :quantity)", {"sku": sku, "quantity": quantity}
            )
        return {"sku": sku, "quantity": quantity}

    @service.get("/stock")
    async def stock() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await service.state.db.fetch_all(
            "select sku, quantity from stock order by sku", into=dict
        )
        return rows

    @service.get("/operations")
    async def counted() -> dict[str, int]:
        return dict(operations)

    return service
