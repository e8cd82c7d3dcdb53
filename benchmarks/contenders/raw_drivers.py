"""The drivers themselves: one connection in autocommit that is kept, and for tasks and threads a queue of ten."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from typing import Any

from benchmarks import workload as w
from benchmarks.contenders import Operations
from benchmarks.places import Place

Run = Callable[[Any, str, Any], Any]
RunAsync = Callable[[Any, str, Any], Awaitable[Any]]


# --- sync ----------------------------------------------------------------------------------------


def _operations(connections: list[Any], run: Run, style: str) -> Operations:
    statements, (first, *_) = w.statements(style), connections
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for connection in connections:
        free.put(connection)

    def transaction() -> None:
        run(first, "begin", ())
        for update in updates:
            run(first, update.sql, update.values)
        run(first, "commit", ())

    def in_a_thread() -> Any:
        connection = free.get()
        try:
            return run(connection, point.sql, point.values)
        finally:
            free.put(connection)

    return {
        w.POINT: lambda: run(first, point.sql, point.values),
        w.INSERT: lambda: run(first, insert.sql, insert.values),
        w.TRANSACTION: transaction,
        w.MANY_ROWS: lambda: run(first, rows, ()),
        w.THREADS: in_a_thread,
    }


@contextmanager
def raw_sqlite(place: Place) -> Iterator[Operations]:
    with ExitStack() as stack:
        connections = [
            stack.enter_context(
                closing(sqlite3.connect(place.path, check_same_thread=False, isolation_level=None, timeout=10))
            )
            for _ in range(w.POOL_SIZE)
        ]
        yield _operations(connections, lambda on, sql, values: on.execute(sql, values).fetchall(), "qmark")


@contextmanager
def raw_psycopg(place: Place) -> Iterator[Operations]:
    import psycopg

    def run(connection: Any, sql: str, values: Any) -> Any:
        cursor = connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else cursor.rowcount

    with ExitStack() as stack:
        connect = lambda: psycopg.connect(place.url, autocommit=True)  # noqa: E731
        connections = [stack.enter_context(connect()) for _ in range(w.POOL_SIZE)]
        yield _operations(connections, run, "format")


@contextmanager
def raw_pymysql(place: Place) -> Iterator[Operations]:
    import pymysql

    def run(cursor: Any, sql: str, values: Any) -> Any:
        cursor.execute(sql, values or None)
        return cursor.fetchall()

    with ExitStack() as stack:
        cursors = []
        for _ in range(w.POOL_SIZE):
            connection: Any = stack.enter_context(pymysql.connect(**place.arguments, autocommit=True))
            cursors.append(connection.cursor())
        yield _operations(cursors, run, "format")


# --- async ---------------------------------------------------------------------------------------


def _async_operations(connections: list[Any], run: RunAsync, style: str) -> Operations:
    statements, (first, *_) = w.statements(style), connections
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows
    free: asyncio.Queue[Any] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)

    async def transaction() -> None:
        await run(first, "begin", ())
        for update in updates:
            await run(first, update.sql, update.values)
        await run(first, "commit", ())

    async def in_a_task() -> Any:
        connection = await free.get()
        try:
            return await run(connection, point.sql, point.values)
        finally:
            free.put_nowait(connection)

    return {
        w.POINT: lambda: run(first, point.sql, point.values),
        w.INSERT: lambda: run(first, insert.sql, insert.values),
        w.TRANSACTION: transaction,
        w.MANY_ROWS: lambda: run(first, rows, ()),
        w.TASKS: in_a_task,
    }


@asynccontextmanager
async def raw_aiosqlite(place: Place) -> AsyncIterator[Operations]:
    import aiosqlite

    async def run(connection: Any, sql: str, values: Any) -> Any:
        async with connection.execute(sql, values) as cursor:
            return await cursor.fetchall()

    async with AsyncExitStack() as stack:
        connect = lambda: aiosqlite.connect(place.path, isolation_level=None, timeout=10)  # noqa: E731
        connections = [await stack.enter_async_context(connect()) for _ in range(w.POOL_SIZE)]
        yield _async_operations(connections, run, "qmark")


@asynccontextmanager
async def raw_psycopg_async(place: Place) -> AsyncIterator[Operations]:
    import psycopg

    async def run(connection: Any, sql: str, values: Any) -> Any:
        cursor = await connection.execute(sql, values)
        return await cursor.fetchall() if cursor.description else cursor.rowcount

    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(place.url, autocommit=True))
            for _ in range(w.POOL_SIZE)
        ]
        yield _async_operations(connections, run, "format")


@asynccontextmanager
async def raw_asyncmy(place: Place) -> AsyncIterator[Operations]:
    import asyncmy

    async def run(cursor: Any, sql: str, values: Any) -> Any:
        await cursor.execute(sql, values or None)
        return await cursor.fetchall()

    connections = [await asyncmy.connect(**place.arguments, autocommit=True) for _ in range(w.POOL_SIZE)]
    try:
        yield _async_operations([connection.cursor() for connection in connections], run, "format")
    finally:
        for connection in connections:
            connection.close()
