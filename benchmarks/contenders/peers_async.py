"""Other libraries, async; see ``peers.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks import workload as w
from benchmarks.contenders import Operations
from benchmarks.contenders.peers import advanced_alchemy_models
from benchmarks.places import Place


@asynccontextmanager
async def psycopg_pool_async(place: Place) -> AsyncIterator[Operations]:
    from psycopg_pool import AsyncConnectionPool

    statements = w.statements("format")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows
    async with AsyncConnectionPool(place.url, min_size=w.POOL_SIZE, max_size=w.POOL_SIZE, open=False) as pool:
        await pool.wait()

        async def fetch(sql: str, values: Any) -> Any:
            async with pool.connection() as connection:
                return await (await connection.execute(sql, values)).fetchall()

        async def write() -> None:
            async with pool.connection() as connection:
                await connection.execute(insert.sql, insert.values)

        async def transaction() -> None:
            async with pool.connection() as connection:
                for update in updates:
                    await connection.execute(update.sql, update.values)

        yield {
            w.POINT: lambda: fetch(point.sql, point.values),
            w.INSERT: write,
            w.TRANSACTION: transaction,
            w.MANY_ROWS: lambda: fetch(rows, ()),
            w.TASKS: lambda: fetch(point.sql, point.values),
        }


@asynccontextmanager
async def asyncpg_pool(place: Place) -> AsyncIterator[Operations]:
    import asyncpg

    statements = w.statements("dollar")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows
    async with asyncpg.create_pool(place.url, min_size=w.POOL_SIZE, max_size=w.POOL_SIZE) as pool:

        async def transaction() -> None:
            async with pool.acquire() as connection, connection.transaction():
                for update in updates:
                    await connection.execute(update.sql, *update.values)

        yield {
            w.POINT: lambda: pool.fetch(point.sql, *point.values),
            w.INSERT: lambda: pool.execute(insert.sql, *insert.values),
            w.TRANSACTION: transaction,
            w.MANY_ROWS: lambda: pool.fetch(rows),
            w.TASKS: lambda: pool.fetch(point.sql, *point.values),
        }


def _mysql_operations(pool: Any) -> Operations:
    """asyncmy's pool and aiomysql's look the same."""
    statements = w.statements("format")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows

    async def run(sql: str, values: Any) -> Any:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(sql, values)
            return await cursor.fetchall()

    async def transaction() -> None:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await connection.begin()
            for update in updates:
                await cursor.execute(update.sql, update.values)
            await connection.commit()

    return {
        w.POINT: lambda: run(point.sql, point.values),
        w.INSERT: lambda: run(insert.sql, insert.values),
        w.TRANSACTION: transaction,
        w.MANY_ROWS: lambda: run(rows, None),
        w.TASKS: lambda: run(point.sql, point.values),
    }


@asynccontextmanager
async def asyncmy_pool(place: Place) -> AsyncIterator[Operations]:
    import asyncmy

    pool = await asyncmy.create_pool(minsize=w.POOL_SIZE, maxsize=w.POOL_SIZE, autocommit=True, **place.arguments)
    try:
        yield _mysql_operations(pool)
    finally:
        pool.close()
        await pool.wait_closed()


@asynccontextmanager
async def aiomysql_pool(place: Place) -> AsyncIterator[Operations]:
    import aiomysql

    arguments = place.arguments
    arguments["db"] = arguments.pop("database")
    pool = await aiomysql.create_pool(minsize=w.POOL_SIZE, maxsize=w.POOL_SIZE, autocommit=True, **arguments)
    try:
        yield _mysql_operations(pool)
    finally:
        pool.close()
        await pool.wait_closed()


@asynccontextmanager
async def encode_databases(place: Place) -> AsyncIterator[Operations]:
    from databases import Database

    statements = w.statements("named")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows
    scheme = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "mariadb": "mysql+asyncmy"}[place.name]
    pool = {} if place.name == "sqlite" else {"min_size": w.POOL_SIZE, "max_size": w.POOL_SIZE}
    url = place.plain_url("async", scheme).render_as_string(hide_password=False)
    async with Database(url, **pool) as db:

        async def transaction() -> None:
            async with db.transaction():
                for update in updates:
                    await db.execute(update.sql, update.values)

        yield {
            w.POINT: lambda: db.fetch_all(point.sql, point.values),
            w.INSERT: lambda: db.execute(insert.sql, insert.values),
            w.TRANSACTION: transaction,
            w.MANY_ROWS: lambda: db.fetch_all(rows),
            w.TASKS: lambda: db.fetch_all(point.sql, point.values),
        }


@asynccontextmanager
async def advanced_alchemy_async(place: Place) -> AsyncIterator[Operations]:
    from advanced_alchemy.config import SQLAlchemyAsyncConfig
    from advanced_alchemy.repository import SQLAlchemyAsyncRepository

    models = advanced_alchemy_models()

    class Items(SQLAlchemyAsyncRepository[Any]):
        model_type = models.item

    class Entries(SQLAlchemyAsyncRepository[Any]):
        model_type = models.entry

    class Wides(SQLAlchemyAsyncRepository[Any]):
        model_type = models.wide

    engine = create_async_engine(place.plain_url("async"), pool_size=w.POOL_SIZE, max_overflow=0)
    config = SQLAlchemyAsyncConfig(engine_instance=engine)

    async def get() -> Any:
        async with config.get_session() as session:
            return await Items(session=session).get(7)

    async def add() -> None:
        async with config.get_session() as session:
            entry = models.entry(item_id=7, qty=3, note="a note about the item")
            await Entries(session=session).add(entry, auto_commit=True)

    async def transaction() -> None:
        async with config.get_session() as session:
            for statement in models.updates:
                await session.execute(statement)
            await session.commit()

    async def every_row() -> Any:
        async with config.get_session() as session:
            return await Wides(session=session).list()

    try:
        yield {w.POINT: get, w.INSERT: add, w.TRANSACTION: transaction, w.MANY_ROWS: every_row, w.TASKS: get}
    finally:
        await engine.dispose()
