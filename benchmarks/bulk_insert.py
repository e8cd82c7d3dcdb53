"""What bulk_insert() saves: 100,000 rows of 4 columns, against the raw driver's executemany and plain SQLAlchemy.

    python -m benchmarks.bulk_insert                      # all three databases
    python -m benchmarks.bulk_insert sqlite --rows 20000

The contenders of a database take turns in random order in one process, each into an empty table; medians of the rounds.
Raw is what one would write with the driver: executemany of tuples, and a commit.

What was measured, and what is missed: docs/performance.md.
"""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import sqlalchemy as sa

from benchmarks.measuring import Spread, one_after_another, ratio, say, take_turns
from benchmarks.places import DATABASES, Place, make_place
from prefiq_db import Database

ITEM = sa.Table(
    "bulk_item",
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
    cursor.executemany(f"insert into {ITEM} (id, sku, qty, note) values ({', '.join([mark] * 4)})", given)
    connection.commit()
    cursor.close()


def raw_connection(place: Place) -> tuple[Any, str]:
    """Return a connection of the raw driver, and its placeholder."""
    if place.name == "sqlite":
        return sqlite3.connect(place.path), "?"
    if place.name == "postgresql":
        return psycopg.connect(place.url), "%s"
    return pymysql.connect(**place.arguments), "%s"


def measure(name: str, count: int, rounds: int) -> Iterator[str]:
    given = rows(count)
    mappings = [dict(zip(COLUMNS, row, strict=True)) for row in given]
    quiet = {"pool_size": 1, "slow_query_seconds": 3600}
    with (
        make_place(name) as place,
        Database(place.url, **quiet) as db,
        Database(place.url, **quiet) as slow,
    ):
        ITEM.create(db.engine)
        raw, mark = raw_connection(place)
        plain = sa.create_engine(place.plain_url("sync"))

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
        seconds = take_turns(
            {each: one_after_another(call, 1) for each, call in contenders.items()},
            rounds,
            before=lambda: db.execute(f"delete from {ITEM}" if name == "sqlite" else f"truncate table {ITEM}"),
        )
        raw.close()
        plain.dispose()
    for each in contenders:
        median, times = Spread.of(seconds[each]).median, 1 / ratio(seconds, each, "raw").median
        target = TARGETS.get(each)
        verdict = "" if target is None else f"  target {target:.2f}x: {'met' if times >= target else 'MISSED'}"
        yield f"{name:<11} {each:<26} {count / median:>12,.0f} rows/s  {times:6.2f}x of raw{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare bulk_insert() with raw drivers and SQLAlchemy.")
    parser.add_argument("databases", nargs="*", default=DATABASES, help="which ones")
    parser.add_argument("--rows", type=int, default=100_000, help="rows in each call")
    parser.add_argument("--rounds", type=int, default=5, help="rounds whose median counts")
    given = parser.parse_args()
    for name in given.databases:
        for line in measure(name, given.rows, given.rounds):
            say(line)


if __name__ == "__main__":
    main()
