"""What watching costs: a one-shot point select on SQLite with all of prefiq_db's own observability on, and off.

    python benchmarks/hooks_cost.py                 # interleaved medians, and ratios to plain SQLAlchemy and sqlite3
    valgrind --tool=callgrind --callgrind-out-file=/dev/null \\
        python benchmarks/hooks_cost.py --count on 1000   # instructions; again with "off", and with another number

On: statistics, timing, top statements, pool histograms, leak records. Off: no observer and no watcher.
Exporters are not in it; OpenTelemetry's spans cost what they cost and only when they are sampled.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from prefiq_db import Database

_QUERY = "select id, qty from item where id = :id"


def _make_database(path: Path, *, watched: bool) -> Database:
    db = Database(f"sqlite:///{path}", pool_size=1, leak_after_seconds=3600)
    if not watched:
        dialect = db.engine.dialect
        dialect.observer = dialect.watcher = None  # type: ignore[attr-defined]
    db.execute("create table if not exists item (id integer primary key, qty integer not null)")
    db.execute("delete from item")
    db.execute_many("insert into item (id, qty) values (:id, :qty)", [{"id": n, "qty": n} for n in range(100)])
    return db


def _contenders(folder: Path) -> dict[str, Callable[[], object]]:
    on, off = _make_database(folder / "a.db", watched=True), _make_database(folder / "b.db", watched=False)
    engine = sa.create_engine(f"sqlite:///{folder / 'a.db'}")
    raw = sqlite3.connect(folder / "a.db")

    def plain() -> object:
        with engine.connect() as connection:
            return connection.execute(sa.text(_QUERY), {"id": 7}).all()

    return {
        "prefiq_db, watched": lambda: on.fetch_all(_QUERY, {"id": 7}),
        "prefiq_db, unwatched": lambda: off.fetch_all(_QUERY, {"id": 7}),
        "SQLAlchemy": plain,
        "sqlite3": lambda: raw.execute("select id, qty from item where id = ?", (7,)).fetchall(),
    }


def _compare(rounds: int, calls: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            order = list(contenders.items())
            random.shuffle(order)
            for name, call in order:
                started = time.perf_counter()
                for _ in range(calls):
                    call()
                seconds[name].append((time.perf_counter() - started) / calls)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        plain, raw = medians["SQLAlchemy"], medians["sqlite3"]
        for name, median in medians.items():
            sys.stdout.write(
                f"{name:22} {median * 1e6:8.2f} us   x{median / plain:5.2f} of SQLAlchemy"
                f"   x{median / raw:6.1f} of sqlite3\n"
            )
        watching = medians["prefiq_db, watched"] - medians["prefiq_db, unwatched"]
        sys.stdout.write(f"watching costs {watching * 1e6:.2f} us per statement\n")


def _count(watched: bool, calls: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        db = _make_database(Path(folder) / "a.db", watched=watched)
        for _ in range(calls):
            db.fetch_all(_QUERY, {"id": 7})
        db.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", nargs=2, metavar=("on|off", "CALLS"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.count:
        _count(arguments.count[0] == "on", int(arguments.count[1]))
    else:
        _compare(arguments.rounds, arguments.calls)


if __name__ == "__main__":
    main()
