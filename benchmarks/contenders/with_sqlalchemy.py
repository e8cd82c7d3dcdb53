"""Plain SQLAlchemy in the ordinary way: ``connect()`` to read, ``begin()`` to write, ``text()`` where it is used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import workload as w
from benchmarks.contenders import OpenAsync, Operations
from benchmarks.places import Place

_POOL: dict[str, Any] = {"pool_size": w.POOL_SIZE, "max_overflow": 0}


@contextmanager
def plain(place: Place) -> Iterator[Operations]:
    engine = sa.create_engine(place.plain_url("sync"), **_POOL)
    statements = w.statements("named")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows

    def fetch(statement: Any, values: Any) -> Any:
        with engine.connect() as connection:
            return connection.execute(statement, values).all()

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(sa.text(insert.sql), insert.values)

    def write_built() -> None:
        with engine.begin() as connection:
            connection.execute(w.built_insert())

    def transaction() -> None:
        with engine.begin() as connection:
            for update in updates:
                connection.execute(sa.text(update.sql), update.values)

    def built_transaction() -> None:
        with engine.begin() as connection:
            for update in w.built_updates():
                connection.execute(update)

    try:
        yield {
            w.POINT: lambda: fetch(sa.text(point.sql), point.values),
            w.SELECT: lambda: fetch(w.PREBUILT, point.values),
            w.INSERT: write,
            w.BUILT: write_built,
            w.TRANSACTION: transaction,
            w.BUILT_TRANSACTION: built_transaction,
            w.MANY_ROWS: lambda: fetch(sa.text(rows), {}),
            w.THREADS: lambda: fetch(sa.text(point.sql), point.values),
        }
    finally:
        engine.dispose()


def plain_async(driver: str = "") -> OpenAsync:
    """Return the contender with this driver, instead of the one that the database usually has here."""

    @asynccontextmanager
    async def opened(place: Place) -> AsyncIterator[Operations]:
        engine = create_async_engine(place.plain_url("async", driver), **_POOL)
        statements = w.statements("named")
        point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows

        async def fetch(statement: Any, values: Any) -> Any:
            async with engine.connect() as connection:
                return (await connection.execute(statement, values)).all()

        async def write() -> None:
            async with engine.begin() as connection:
                await connection.execute(sa.text(insert.sql), insert.values)

        async def write_built() -> None:
            async with engine.begin() as connection:
                await connection.execute(w.built_insert())

        async def transaction() -> None:
            async with engine.begin() as connection:
                for update in updates:
                    await connection.execute(sa.text(update.sql), update.values)

        async def built_transaction() -> None:
            async with engine.begin() as connection:
                for update in w.built_updates():
                    await connection.execute(update)

        try:
            yield {
                w.POINT: lambda: fetch(sa.text(point.sql), point.values),
                w.SELECT: lambda: fetch(w.PREBUILT, point.values),
                w.INSERT: write,
                w.BUILT: write_built,
                w.TRANSACTION: transaction,
                w.BUILT_TRANSACTION: built_transaction,
                w.MANY_ROWS: lambda: fetch(sa.text(rows), {}),
                w.TASKS: lambda: fetch(sa.text(point.sql), point.values),
            }
        finally:
            await engine.dispose()

    return opened
