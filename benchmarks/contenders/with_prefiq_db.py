"""prefiq_db as it comes: statistics, timings, slow log, leak records, retries, limits and masking are all on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from benchmarks import workload as w
from benchmarks.contenders import SETTLE, Operations
from benchmarks.places import Place
from prefiq_db import AsyncDatabase, Database


@contextmanager
def ours(place: Place) -> Iterator[Operations]:
    statements = w.statements("named")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows
    with Database(place.url, pool_size=w.POOL_SIZE, max_overflow=0) as db:

        def transaction() -> None:
            with db.transaction() as tx:
                for update in updates:
                    tx.execute(update.sql, update.values)

        def built_transaction() -> None:
            with db.transaction() as tx:
                for update in w.built_updates():
                    tx.execute(update)

        yield {
            w.POINT: lambda: db.fetch_all(point.sql, point.values),
            w.SELECT: lambda: db.fetch_all(w.PREBUILT, point.values),
            w.INSERT: lambda: db.execute(insert.sql, insert.values),
            w.BUILT: lambda: db.execute(w.built_insert()),
            w.TRANSACTION: transaction,
            w.BUILT_TRANSACTION: built_transaction,
            w.MANY_ROWS: lambda: db.fetch_all(rows),
            w.THREADS: lambda: db.fetch_all(point.sql, point.values),
            SETTLE: db.stats,
        }


@asynccontextmanager
async def ours_async(place: Place) -> AsyncIterator[Operations]:
    statements = w.statements("named")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows
    async with AsyncDatabase(place.url, pool_size=w.POOL_SIZE, max_overflow=0) as db:

        async def transaction() -> None:
            async with db.transaction() as tx:
                for update in updates:
                    await tx.execute(update.sql, update.values)

        async def built_transaction() -> None:
            async with db.transaction() as tx:
                for update in w.built_updates():
                    await tx.execute(update)

        yield {
            w.POINT: lambda: db.fetch_all(point.sql, point.values),
            w.SELECT: lambda: db.fetch_all(w.PREBUILT, point.values),
            w.INSERT: lambda: db.execute(insert.sql, insert.values),
            w.BUILT: lambda: db.execute(w.built_insert()),
            w.TRANSACTION: transaction,
            w.BUILT_TRANSACTION: built_transaction,
            w.MANY_ROWS: lambda: db.fetch_all(rows),
            w.TASKS: lambda: db.fetch_all(point.sql, point.values),
            SETTLE: db.stats,
        }
