"""What bulk_insert() saves: 100,000 rows of 4 columns, against the raw driver's executemany and plain SQLAlchemy.

    python benchmarks/bulk_insert.py                      # all three databases
    python benchmarks/bulk_insert.py sqlite --rows 20000

The contenders of a database take turns in random order in one process, each into an empty table; medians of the rounds.
Raw is what one would write with the driver: executemany of tuples, and a commit.

What was measured, and what is missed: docs/performance.md.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from prefiq_db import Database
from prefiq_db.testing import MariaDbServer, PostgresServer

ITEM = sa.Table(
    "item",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", sa.String(40), nullable=False),
    sa.Column("qty", sa.Integer, nullable=False),
    sa.Column("note", sa.String(80)),
)
COLUMNS = ["id", "sku", "qty", "note"]
#: raw time / our time, at least
TARGETS = {"sqlite": 1 / 1.15, "postgresql": 10.0, "mariadb": 2.5, "mariadb without LOAD DATA": 1.6}


def rows(count: int) -> list[tuple[Any, ...]]:
    return [(n, f"SKU-{n}", n % 100, f"a note about item {n}") for n in range(count)]


def raw_executemany(connection: Any, mark: str, given: list[tuple[Any, ...]]) -> None:
    cursor = connection.cursor()
    cursor.executemany(f"insert into item (id, sku, qty, note) values ({', '.join([mark] * 4)})", given)
    connection.commit()
    cursor.close()


@contextmanager
def places(name: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any], str]]:
    """Give the URL of a database, a function that connects the raw driver to it, and the driver's placeholder."""
    if name == "sqlite":
        yield f"sqlite:///{folder / 'bulk.db'}", lambda: sqlite3.connect(folder / "bulk.db"), "?"
        return
    with (PostgresServer if name == "postgresql" else MariaDbServer)() as server:
        database = server.create_database()
        url = server.url(database)
        if name == "postgresql":
            import psycopg

            yield url, lambda: psycopg.connect(url), "%s"
            return
        import pymysql

        place = sa.make_url(url)
        yield (
            url,
            lambda: pymysql.connect(
                host=place.host,
                port=place.port or 0,
                user=place.username,
                password=place.password or "",
                database=database,
            ),
            "%s",
        )


def measure(name: str, count: int, rounds: int) -> Iterator[str]:
    given = rows(count)
    mappings = [dict(zip(COLUMNS, row, strict=True)) for row in given]
    quiet = {"pool_size": 1, "slow_query_seconds": 3600}
    with (
        tempfile.TemporaryDirectory() as folder,
        places(name, Path(folder)) as (url, connect, mark),
        Database(url, **quiet) as db,
        Database(url, **quiet) as slow,
    ):
        ITEM.create(db.engine)
        raw = connect()
        driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}[name]
        plain = sa.create_engine(sa.make_url(url).set(drivername=driver))

        def with_sqlalchemy() -> None:
            with plain.begin() as connection:
                connection.execute(ITEM.insert(), mappings)

        contenders: dict[str, Callable[[], Any]] = {
            "raw": lambda: raw_executemany(raw, mark, given),
            "sqlalchemy": with_sqlalchemy,
            name: lambda: db.bulk_insert(ITEM, iter(given), columns=COLUMNS),
        }
        if name == "mariadb":
            slow.engine.dialect.loads_data = False  # type: ignore[attr-defined]  # our dialect has it
            contenders["mariadb without LOAD DATA"] = lambda: slow.bulk_insert(ITEM, given, columns=COLUMNS)
        times: dict[str, list[float]] = {each: [] for each in contenders}
        for round_number in range(rounds + 1):
            for each in random.sample(list(contenders), len(contenders)):
                db.execute("delete from item" if name == "sqlite" else "truncate table item")
                started = time.perf_counter()
                contenders[each]()
                if round_number:  # the first one warms up
                    times[each].append(time.perf_counter() - started)
        raw.close()
        plain.dispose()
    base = statistics.median(times["raw"])
    for each, seconds in times.items():
        median = statistics.median(seconds)
        target = TARGETS.get(each)
        verdict = "" if target is None else f"  target {target:.2f}x: {'met' if base / median >= target else 'MISSED'}"
        yield f"{name:<11} {each:<26} {count / median:>12,.0f} rows/s  {base / median:6.2f}x of raw{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare bulk_insert() with raw drivers and SQLAlchemy.")
    parser.add_argument("databases", nargs="*", default=["sqlite", "postgresql", "mariadb"], help="which ones")
    parser.add_argument("--rows", type=int, default=100_000, help="rows in each call")
    parser.add_argument("--rounds", type=int, default=5, help="rounds whose median counts")
    given = parser.parse_args()
    for name in given.databases:
        for line in measure(name, given.rows, given.rounds):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
