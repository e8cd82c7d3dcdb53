"""A download of any size in FastAPI: rows go from the database to the client, a batch at a time, as CSV.

Run it with any ASGI server: ``uvicorn --app-dir examples --factory export_fastapi:make_app``, then
``curl -O http://127.0.0.1:8000/orders.csv``. Set ``DB_URL`` to use a server instead of SQLite.

A client that goes away cancels the download, and the connection is free again. One that reads slowly holds a connection
of the pool for that time, so exports have a pool of their own in a busy service.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from prefiq_db import AsyncDatabase, bootstrap_async

COLUMNS = ("id", "customer", "quantity")


async def as_csv(db: AsyncDatabase) -> AsyncIterator[str]:
    """Yield the orders as lines of CSV, as many in one piece as the stream has in a batch."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    async with db.stream("select id, customer, quantity from orders order by id") as rows:
        async for batch in rows.batches():
            writer.writerows(batch)
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()  # the head alone, when there are no orders


def make_app(database: dict[str, Any] | None = None) -> FastAPI:
    """Return the service; *database* has settings."""

    @asynccontextmanager
    async def lifespan(service: FastAPI) -> AsyncIterator[None]:
        async with await bootstrap_async(arguments={"database": {"mode": "async", **(database or {})}}) as container:
            service.state.db = db = container.resolve("db")
            await db.execute(
                "create table if not exists orders"
                " (id integer primary key, customer varchar(40) not null, quantity integer not null)"
            )
            yield

    service = FastAPI(title="export", lifespan=lifespan)

    @service.get("/orders.csv")
    async def orders() -> StreamingResponse:
        return StreamingResponse(as_csv(service.state.db), media_type="text/csv")

    return service
