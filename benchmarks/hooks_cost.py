"""What watching costs: a one-shot point select on SQLite with all of prefiq_db's own observability on, and off.

    python benchmarks/hooks_cost.py            # the verdict, by instructions (needs valgrind) and by time
    python benchmarks/hooks_cost.py --time     # the time only, with ratios to plain SQLAlchemy and sqlite3

On: statistics, timing, histograms, top statements, slow log, waits, uses, holders and leak records, which is what a
``Database`` does by default. Off: no observer and no watcher. Exporters are not in it; OpenTelemetry's spans cost what
they cost and only when they are sampled.

The instructions are the difference between runs of the same program with more and fewer calls. Both databases live in
each run: CPython's cache of attribute lookups depends on where things lie in memory, and two programs that differ at
all differ by some thousand instructions per statement for that alone. What the garbage collector needs for the modules
that were imported is left out (``gc.freeze``), for the same reason.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sqlalchemy as sa

from prefiq_db import Database

_QUERY = "select id, qty from item where id = :id"
MOST_INSTRUCTIONS, MOST_MICROSECONDS = 10_000, 2.0
_WARM_UP_CALLS, _COUNTED_CALLS = 600, 2048


def _make_database(path: Path, *, watched: bool) -> Database:
    db = Database(f"sqlite:///{path}", pool_size=1, leak_after_seconds=3600)
    if not watched:
        engine = db.engine
        engine.dialect.observer = engine.dialect.watcher = engine.pool.watcher = None  # type: ignore[attr-defined]
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


def _compare(rounds: int, calls: int) -> float:
    """Print the medians; return what watching costs, in microseconds per statement."""
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
    # Of each round by itself, so that a machine that was busy for a while hits both sides.
    pairs = zip(seconds["prefiq_db, watched"], seconds["prefiq_db, unwatched"], strict=True)
    return statistics.median(on - off for on, off in pairs) * 1e6


def _call(on_calls: int, off_calls: int) -> None:
    """Be the program whose instructions are counted."""
    with tempfile.TemporaryDirectory() as folder:
        on = _make_database(Path(folder) / "a.db", watched=True)
        off = _make_database(Path(folder) / "b.db", watched=False)
        for _ in range(_WARM_UP_CALLS):
            on.fetch_all(_QUERY, {"id": 7})
            off.fetch_all(_QUERY, {"id": 7})
        gc.collect()
        gc.freeze()
        for db, calls in ((on, on_calls), (off, off_calls)):
            for _ in range(calls):
                db.fetch_all(_QUERY, {"id": 7})
        on.close()
        off.close()


def _instructions(on_calls: int, off_calls: int) -> int:
    callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}"]
    counted = subprocess.run(
        [*callgrind, sys.executable, __file__, "--call", str(on_calls), str(off_calls)],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", counted.stderr)
    assert found is not None, counted.stderr
    return int(found[1])


def _count() -> int:
    """Print what callgrind counted; return what watching costs, in instructions per statement."""
    runs = ((0, 0), (_COUNTED_CALLS, 0), (0, _COUNTED_CALLS))
    with ThreadPoolExecutor(os.cpu_count()) as several:
        neither, watched, unwatched = several.map(lambda calls: _instructions(*calls), runs)
    on, off = (watched - neither) // _COUNTED_CALLS, (unwatched - neither) // _COUNTED_CALLS
    sys.stdout.write(f"prefiq_db, watched     {on:8} instructions\nprefiq_db, unwatched   {off:8} instructions\n")
    return on - off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="don't count instructions")
    parser.add_argument("--rounds", type=int, default=200, help="rounds whose median counts")
    parser.add_argument("--calls", type=int, default=100, help="calls of each contender in a round")
    parser.add_argument("--call", nargs=2, type=int, metavar=("ON", "OFF"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        _call(*arguments.call)
        return
    microseconds = _compare(arguments.rounds, arguments.calls)
    kept = microseconds <= MOST_MICROSECONDS
    sys.stdout.write(f"watching costs {microseconds:.2f} us per statement (at most {MOST_MICROSECONDS:g})\n")
    if not arguments.time and shutil.which("valgrind"):
        instructions = _count()
        kept = kept or instructions <= MOST_INSTRUCTIONS
        sys.stdout.write(f"watching costs {instructions} instructions per statement (at most {MOST_INSTRUCTIONS})\n")
    sys.stdout.write("kept\n" if kept else "NOT KEPT\n")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
