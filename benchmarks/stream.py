"""What a stream costs: all rows of a query, against the raw driver's server-side cursor and plain SQLAlchemy.

    python -m benchmarks.stream                          # SQLite, and private servers of PostgreSQL and MariaDB
    python -m benchmarks.stream --rows 1000000 --rounds 5 --only postgresql

The contenders run in one process, in random order in each round. The table shows the median of their times, and of the
ratios to the raw driver in the same round: of time, and of this process's CPU, which a busy machine disturbs less. All
fetch batches of the same size, and all look at each row once. The target is at most 1.15 of the raw cursor's time.

What was measured: docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiosqlite
import asyncmy
import psycopg
import pymysql
import sqlalchemy as sa
from asyncmy.cursors import SSCursor as AsyncmySSCursor
from pymysql.cursors import SSCursor
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.measuring import Spread, ratio, say
from benchmarks.places import DATABASES, Place, make_place
from prefiq_db import AsyncDatabase, Database

QUERY = "select id, seven, word from streamed"
MOST = 1.15
Contender = Callable[[], Awaitable[int]]


def _count(rows: Any) -> int:
    count = 0
    for _ in rows:
        count += 1
    return count


async def _count_async(rows: Any) -> int:
    count = 0
    async for _ in rows:
        count += 1
    return count


# --- the raw drivers -----------------------------------------------------------------------------


def _in_pieces(cursor: Any, size: int) -> Iterator[Any]:
    while rows := cursor.fetchmany(size):
        yield from rows


async def _count_pieces(cursor: Any, size: int) -> int:
    count = 0
    while rows := await cursor.fetchmany(size):
        for _ in rows:
            count += 1
    return count


def _raw_sqlite(place: Place, size: int) -> dict[str, Callable[[], Awaitable[int]]]:
    path = place.path
    connection = sqlite3.connect(path)

    async def sync() -> int:
        return _count(_in_pieces(connection.execute(QUERY), size))

    async def asynchronous() -> int:
        async with aiosqlite.connect(path) as other, other.execute(QUERY) as cursor:
            return await _count_pieces(cursor, size)

    return {"sync": sync, "async": asynchronous}


def _raw_postgresql(place: Place, size: int) -> dict[str, Callable[[], Awaitable[int]]]:
    connection = psycopg.connect(place.url)

    async def sync() -> int:
        with connection.transaction(), connection.cursor("c") as cursor:
            cursor.itersize = size
            cursor.execute(QUERY)
            return _count(cursor)

    async def asynchronous() -> int:
        async with await psycopg.AsyncConnection.connect(place.url) as other, other.cursor("c") as cursor:
            cursor.itersize = size
            await cursor.execute(QUERY)
            return await _count_async(cursor)

    return {"sync": sync, "async": asynchronous}


def _raw_mariadb(place: Place, size: int) -> dict[str, Callable[[], Awaitable[int]]]:
    connection: Any = pymysql.connect(**place.arguments)

    async def sync() -> int:
        with connection.cursor(SSCursor) as cursor:
            cursor.execute(QUERY)
            return _count(_in_pieces(cursor, size))

    async def asynchronous() -> int:
        other = await asyncmy.connect(**place.arguments)
        async with other.cursor(AsyncmySSCursor) as cursor:
            await cursor.execute(QUERY)
            count = await _count_pieces(cursor, size)
        other.close()
        return count

    return {"sync": sync, "async": asynchronous}


RAW = {"sqlite": _raw_sqlite, "postgresql": _raw_postgresql, "mariadb": _raw_mariadb}


# --- the others ----------------------------------------------------------------------------------


def _ours(db: Database, size: int) -> Contender:
    async def rows() -> int:
        with db.stream(QUERY, batch_size=size) as stream:
            return _count(stream)

    return rows


def _ours_async(db: AsyncDatabase, size: int) -> Contender:
    async def rows() -> int:
        async with db.stream(QUERY, batch_size=size) as stream:
            return await _count_async(stream)

    return rows


def _ours_in_batches(db: AsyncDatabase, size: int) -> Contender:
    async def rows() -> int:
        count = 0
        async with db.stream(QUERY, batch_size=size) as stream:
            async for batch in stream.batches():
                count += _count(batch)
        return count

    return rows


def _sqlalchemy(engine: sa.Engine, size: int) -> Contender:
    async def rows() -> int:
        with engine.connect() as connection:
            return _count(connection.execution_options(yield_per=size).execute(sa.text(QUERY)))

    return rows


def _sqlalchemy_async(engine: AsyncEngine, size: int) -> Contender:
    async def rows() -> int:
        async with engine.connect() as connection:
            result = await connection.stream(sa.text(QUERY), execution_options={"yield_per": size})
            return await _count_async(result)

    return rows


async def _measure(contenders: dict[str, Contender], rows: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return the median time of each contender, and the medians of its ratios to the first one: of time and of CPU."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in random.sample(list(contenders), len(contenders)):
            started, worked = time.perf_counter(), time.process_time()
            found = await contenders[name]()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - worked)
            assert found == rows, (name, found)
    first = next(iter(contenders))
    return {
        name: (Spread.of(times[name]).median, ratio(times, name, first).median, ratio(cpu, name, first).median)
        for name in contenders
    }


async def _compare(place: Place, rows: int, rounds: int, size: int) -> None:
    name, url = place.name, place.url
    raw = RAW[name](place, size)
    db = Database(url, pool_size=1)
    _fill(db, rows)
    async with AsyncDatabase(url, pool_size=1) as async_db:
        engine = sa.create_engine(place.plain_url("sync"))
        async_engine = create_async_engine(place.plain_url("async"))
        worlds: dict[str, dict[str, Contender]] = {
            "sync": {"raw driver": raw["sync"], "prefiq_db": _ours(db, size), "SQLAlchemy": _sqlalchemy(engine, size)},
            "async": {
                "raw driver": raw["async"],
                "prefiq_db": _ours_async(async_db, size),
                "prefiq_db, batches()": _ours_in_batches(async_db, size),
                "SQLAlchemy": _sqlalchemy_async(async_engine, size),
            },
        }
        for world, contenders in worlds.items():
            for contender, (seconds, ratio, cpu) in (await _measure(contenders, rows, rounds)).items():
                verdict = "" if not contender.startswith("prefiq_db") else "met" if ratio <= MOST else "missed"
                say(f"{name:<12}{world:<7}{contender:<22}{seconds:>9.3f} s  x{ratio:>5.2f}  x{cpu:>5.2f}  {verdict}")
        engine.dispose()
        await async_engine.dispose()
    db.close()


def _fill(db: Database, rows: int) -> None:
    db.execute("create table streamed (id integer primary key, seven integer not null, word varchar(40) not null)")
    for start in range(1, rows + 1, 10_000):
        numbers = range(start, min(start + 10_000, rows + 1))
        values = ", ".join(f"({number}, {number * 7 % 1000}, 'row number {number}')" for number in numbers)
        with db.engine.begin() as connection:
            connection.exec_driver_sql(f"insert into streamed (id, seven, word) values {values}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows in each stream")
    parser.add_argument("--rounds", type=int, default=7, help="rounds whose median counts")
    parser.add_argument("--batch-size", type=int, default=1000, help="rows in each batch")
    parser.add_argument("--only", choices=tuple(RAW), help="one driver instead of all")
    options = parser.parse_args()
    say(f"{options.rows} rows, batches of {options.batch_size}, medians of {options.rounds} interleaved rounds")
    say(f"{'':<41}{'time':>11}  {'ratio':>6}  {'of CPU':>6}  at most {MOST:g}")
    for name in [options.only] if options.only else DATABASES:
        with make_place(name) as place:
            asyncio.run(_compare(place, options.rows, options.rounds, options.batch_size))


if __name__ == "__main__":
    main()
