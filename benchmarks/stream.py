"""What a stream costs: all rows of a query, against the raw driver's server-side cursor and plain SQLAlchemy.

    python benchmarks/stream.py                          # SQLite, and private servers of PostgreSQL and MariaDB
    python benchmarks/stream.py --rows 1000000 --rounds 5 --only postgresql

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
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import asyncmy
import psycopg
import pymysql
import sqlalchemy as sa
from asyncmy.cursors import SSCursor as AsyncmySSCursor
from pymysql.cursors import SSCursor
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from prefiq_db import AsyncDatabase, Database
from prefiq_db.testing import MariaDbServer, PostgresServer

QUERY = "select id, seven, word from item"
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


def _raw_sqlite(url: str, size: int) -> dict[str, Callable[[], Awaitable[int]]]:
    path = url.removeprefix("sqlite:///")
    connection = sqlite3.connect(path)

    async def sync() -> int:
        return _count(_in_pieces(connection.execute(QUERY), size))

    async def asynchronous() -> int:
        async with aiosqlite.connect(path) as other, other.execute(QUERY) as cursor:
            return await _count_pieces(cursor, size)

    return {"sync": sync, "async": asynchronous}


def _raw_postgresql(url: str, size: int) -> dict[str, Callable[[], Awaitable[int]]]:
    connection = psycopg.connect(url)

    async def sync() -> int:
        with connection.transaction(), connection.cursor("c") as cursor:
            cursor.itersize = size
            cursor.execute(QUERY)
            return _count(cursor)

    async def asynchronous() -> int:
        async with await psycopg.AsyncConnection.connect(url) as other, other.cursor("c") as cursor:
            cursor.itersize = size
            await cursor.execute(QUERY)
            return await _count_async(cursor)

    return {"sync": sync, "async": asynchronous}


def _raw_mariadb(url: str, size: int) -> dict[str, Callable[[], Awaitable[int]]]:
    place = sa.make_url(url)
    arguments: dict[str, Any] = {
        "host": place.host, "port": place.port, "user": place.username, "password": place.password or "",
        "database": place.database,
    }  # fmt: skip
    connection: Any = pymysql.connect(**arguments)

    async def sync() -> int:
        with connection.cursor(SSCursor) as cursor:
            cursor.execute(QUERY)
            return _count(_in_pieces(cursor, size))

    async def asynchronous() -> int:
        other = await asyncmy.connect(**arguments)
        async with other.cursor(AsyncmySSCursor) as cursor:
            await cursor.execute(QUERY)
            count = await _count_pieces(cursor, size)
        other.close()
        return count

    return {"sync": sync, "async": asynchronous}


RAW = {"sqlite": _raw_sqlite, "postgresql": _raw_postgresql, "mariadb": _raw_mariadb}
DRIVERS = {
    "sqlite": ("sqlite", "sqlite+aiosqlite"),
    "postgresql": ("postgresql+psycopg", "postgresql+psycopg"),
    "mariadb": ("mariadb+pymysql", "mariadb+asyncmy"),
}


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


def _engine_url(name: str, url: str, place: int) -> str:
    return DRIVERS[name][place] + url[url.index("://") :]


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
    return {
        name: (statistics.median(times[name]), _median_ratio(times, name), _median_ratio(cpu, name)) for name in times
    }


def _median_ratio(measured: dict[str, list[float]], name: str) -> float:
    first = next(iter(measured.values()))
    return statistics.median(one / other for one, other in zip(measured[name], first, strict=True))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _compare(name: str, url: str, rows: int, rounds: int, size: int) -> None:
    raw = RAW[name](url, size)
    db = Database(url, pool_size=1)
    _fill(db, rows)
    async with AsyncDatabase(url, pool_size=1) as async_db:
        engine, async_engine = (
            sa.create_engine(_engine_url(name, url, 0)),
            create_async_engine(_engine_url(name, url, 1)),
        )
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
                _say(f"{name:<12}{world:<7}{contender:<22}{seconds:>9.3f} s  x{ratio:>5.2f}  x{cpu:>5.2f}  {verdict}")
        engine.dispose()
        await async_engine.dispose()
    db.close()


def _fill(db: Database, rows: int) -> None:
    db.execute("create table item (id integer primary key, seven integer not null, word varchar(40) not null)")
    for start in range(1, rows + 1, 10_000):
        numbers = range(start, min(start + 10_000, rows + 1))
        values = ", ".join(f"({number}, {number * 7 % 1000}, 'row number {number}')" for number in numbers)
        with db.engine.begin() as connection:
            connection.exec_driver_sql(f"insert into item (id, seven, word) values {values}")


@contextmanager
def _places(only: str | None) -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        places: dict[str, str] = {}
        if only in (None, "sqlite"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            places["sqlite"] = f"sqlite:///{Path(folder, 'stream.db')}"
        for kind in (PostgresServer, MariaDbServer):
            if only in (None, kind.kind.name):
                server = stack.enter_context(kind())
                places[kind.kind.name] = server.url(server.create_database())
        yield places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="rows in each stream")
    parser.add_argument("--rounds", type=int, default=7, help="rounds whose median counts")
    parser.add_argument("--batch-size", type=int, default=1000, help="rows in each batch")
    parser.add_argument("--only", choices=tuple(RAW), help="one driver instead of all")
    options = parser.parse_args()
    _say(f"{options.rows} rows, batches of {options.batch_size}, medians of {options.rounds} interleaved rounds")
    _say(f"{'':<41}{'time':>11}  {'ratio':>6}  {'of CPU':>6}  at most {MOST:g}")
    with _places(options.only) as places:
        for name, url in places.items():
            asyncio.run(_compare(name, url, options.rows, options.rounds, options.batch_size))


if __name__ == "__main__":
    main()
