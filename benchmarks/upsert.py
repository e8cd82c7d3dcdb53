"""What ``upsert()`` costs beside plain SQLAlchemy's ON CONFLICT and the raw driver, interleaved in one run.

    python benchmarks/upsert.py [rows]         # 10,000 rows by default, half of them there already

Each contender upserts the same rows into a table of its own kind, in random order, and the medians of five rounds are
printed. ``upsert()`` counts inserted and updated rows; the others don't. Plain SQLAlchemy sends its ordinary
``connection.execute(statement, rows)``; the driver its ``executemany``. MariaDB's others have no guard against other
unique keys, which is what they are in most programs.

What was measured: docs/performance.md.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from prefiq_db import Database
from prefiq_db.testing import MariaDbServer, PostgresServer

_ROUNDS, _SINGLES = 5, 200
_TABLE = sa.Table(
    "item",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(40), nullable=False, unique=True),
    sa.Column("qty", sa.Integer),
    sa.Column("name", sa.String(60)),
)
_INSERT = "INSERT INTO item (sku, qty, name) VALUES ({}) "
_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
_TAILS = {
    "postgresql": "ON CONFLICT (sku) DO UPDATE SET qty = excluded.qty, name = excluded.name",
    "sqlite": "ON CONFLICT (sku) DO UPDATE SET qty = excluded.qty, name = excluded.name",
    "mariadb": "ON DUPLICATE KEY UPDATE qty = VALUES(qty), name = VALUES(name)",
}


def _statement(name: str) -> Any:
    if name == "mariadb":
        made = mysql.insert(_TABLE)
        return made.on_duplicate_key_update(qty=made.inserted.qty, name=made.inserted.name)
    insert: Any = {"postgresql": postgresql, "sqlite": sqlite}[name].insert(_TABLE)
    return insert.on_conflict_do_update(
        index_elements=["sku"], set_={"qty": insert.excluded.qty, "name": insert.excluded.name}
    )


def _contenders(name: str, db: Database, plain: sa.Engine, rows: list[dict[str, Any]]) -> dict[str, Callable[[], None]]:
    raw = plain.raw_connection()
    mark = "?" if name == "sqlite" else "%s"
    text = _INSERT.format(", ".join([mark] * 3)) + _TAILS[name]
    tuples = [tuple(row.values()) for row in rows]
    statement, few = _statement(name), rows[:_SINGLES]

    def driver(many: list[tuple[Any, ...]]) -> None:
        cursor = raw.cursor()
        cursor.executemany(text, many)
        raw.commit()
        cursor.close()

    def sqlalchemy(given: Any) -> None:
        with plain.begin() as connection:
            connection.execute(statement, given)

    return {
        "many: driver": lambda: driver(tuples),
        "many: SQLAlchemy": lambda: sqlalchemy(rows),
        "many: upsert": lambda: _ignore(db.upsert(_TABLE, rows, key="sku")),
        "many: upsert, returning": lambda: _ignore(db.upsert(_TABLE, rows, key="sku", returning=["id"])),
        "single: driver": lambda: [driver([each]) for each in tuples[:_SINGLES]] and None,
        "single: SQLAlchemy": lambda: [sqlalchemy(each) for each in few] and None,
        "single: upsert": lambda: [_ignore(db.upsert(_TABLE, each, key="sku")) for each in few] and None,
    }


def _ignore(result: object) -> None:
    """Drop *result*."""


def _measure(name: str, url: str, count: int) -> None:
    rows = [{"sku": f"S{number}", "qty": number, "name": "x" * 20} for number in range(count)]
    with Database(url, slow_query_seconds=60) as db:
        _TABLE.create(db.engine)
        plain = sa.create_engine(sa.make_url(url).set(drivername=_DRIVERS[name]))
        work = _contenders(name, db, plain, rows)
        times: dict[str, list[float]] = {each: [] for each in work}
        for _ in range(_ROUNDS):
            for each in random.sample(list(work), len(work)):
                with plain.begin() as connection:
                    connection.execute(sa.delete(_TABLE))
                    connection.execute(sa.insert(_TABLE), rows[::2])
                started = time.perf_counter()
                work[each]()
                times[each].append(time.perf_counter() - started)
        for each, seconds in times.items():
            number = count if each.startswith("many") else _SINGLES
            base = statistics.median(times[each.partition(":")[0] + ": driver"])
            middle = statistics.median(seconds)
            sys.stdout.write(
                f"{name:11}{each:26}{number / middle:10,.0f} rows/s   x{middle / base:.2f} of the driver\n"
            )
        plain.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="rows in a call of many")
    count = parser.parse_args().count
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _measure("sqlite", f"sqlite:///{folder / 'app.db'}", count)
        for kind in (PostgresServer, MariaDbServer):
            server = stack.enter_context(kind.locate())
            _measure(server.name, server.url(server.create_database()), count)


if __name__ == "__main__":
    main()
