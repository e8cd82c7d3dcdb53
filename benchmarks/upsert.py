"""What ``upsert()`` costs beside plain SQLAlchemy's ON CONFLICT and the raw driver, interleaved in one run.

    python -m benchmarks.upsert [rows]          # 10,000 rows by default, half of them there already

Each contender upserts the same rows into a table of its own kind, in random order, and the medians of five rounds are
printed. ``upsert()`` counts inserted and updated rows; the others don't. Plain SQLAlchemy sends its ordinary
``connection.execute(statement, rows)``; the driver its ``executemany``. MariaDB's others have no guard against other
unique keys, which is what they are in most programs.

What was measured: docs/performance.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from benchmarks.measuring import Spread, one_after_another, ratio, say, take_turns
from benchmarks.places import DATABASES, Place, make_place
from prefiq_db import Database

_ROUNDS, _SINGLES = 5, 200
_TABLE = sa.Table(
    "upsert_item",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(40), nullable=False, unique=True),
    sa.Column("qty", sa.Integer),
    sa.Column("name", sa.String(60)),
)
_INSERT = f"INSERT INTO {_TABLE} (sku, qty, name) VALUES ({{}}) "
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


def _measure(place: Place, count: int) -> None:
    rows = [{"sku": f"S{number}", "qty": number, "name": "x" * 20} for number in range(count)]
    with Database(place.url, slow_query_seconds=60) as db:
        _TABLE.create(db.engine)
        plain = sa.create_engine(place.plain_url("sync"))

        def half_of_them() -> None:
            with plain.begin() as connection:
                connection.execute(sa.delete(_TABLE))
                connection.execute(sa.insert(_TABLE), rows[::2])

        work = _contenders(place.name, db, plain, rows)
        turns = {each: one_after_another(call, 1) for each, call in work.items()}
        seconds = take_turns(turns, _ROUNDS, before=half_of_them, warm_up=0)
        for each in work:
            number = count if each.startswith("many") else _SINGLES
            times = ratio(seconds, each, each.partition(":")[0] + ": driver").median
            rate = number / Spread.of(seconds[each]).median
            say(f"{place.name:11}{each:26}{rate:10,.0f} rows/s   x{times:.2f} of the driver")
        plain.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="rows in a call of many")
    count = parser.parse_args().count
    for name in DATABASES:
        with make_place(name) as place:
            _measure(place, count)


if __name__ == "__main__":
    main()
