"""What watching costs: a one-shot point select on SQLite with all of prefiq_db's own observability on, and off.

    python -m benchmarks.hooks_cost            # the verdict, by instructions (needs valgrind) and by time
    python -m benchmarks.hooks_cost --time     # the time only, with ratios to plain SQLAlchemy and sqlite3

On: statistics, timing, histograms, top statements, slow log, waits, uses, holders and leak records, which is what a
``Database`` does by default. Off: no observer and no watcher. Exporters are not in it; OpenTelemetry's spans cost what
they cost and only when they are sampled.

Both databases live in the program that is counted: CPython's cache of attribute lookups depends on where things lie in
memory, and two programs that differ at all differ by some thousand instructions per statement for that alone. What the
garbage collector needs for the modules that were imported is left out (``gc.freeze``), for the same reason.
"""

from __future__ import annotations

import argparse
import gc
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from benchmarks import valgrind
from benchmarks.measuring import Spread, one_after_another, ratio, say, take_turns
from prefiq_db import Database

_QUERY = "select id, qty from item where id = :id"
MOST_INSTRUCTIONS, MOST_MICROSECONDS = 10_000, 2.0
_WARM_UP_CALLS, _COUNTED_CALLS = 1024, 1024  # what is noted is worked out every 512 calls
WATCHED, UNWATCHED = "prefiq_db, watched", "prefiq_db, unwatched"


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
        WATCHED: lambda: on.fetch_all(_QUERY, {"id": 7}),
        UNWATCHED: lambda: off.fetch_all(_QUERY, {"id": 7}),
        "SQLAlchemy": plain,
        "sqlite3": lambda: raw.execute("select id, qty from item where id = ?", (7,)).fetchall(),
    }


def _compare(rounds: int, calls: int) -> float:
    """Print the medians; return what watching costs, in microseconds per statement."""
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders(Path(folder))
        seconds = take_turns({name: one_after_another(call, calls) for name, call in contenders.items()}, rounds)
    for name in contenders:
        plain, raw = (ratio(seconds, name, other).median for other in ("SQLAlchemy", "sqlite3"))
        median = Spread.of(seconds[name]).median * 1e6
        say(f"{name:22} {median:8.2f} us   x{plain:5.2f} of SQLAlchemy   x{raw:6.1f} of sqlite3")
    # Of each round by itself, so that a machine that was busy for a while hits both sides.
    pairs = zip(seconds[WATCHED], seconds[UNWATCHED], strict=True)
    return Spread.of(on - off for on, off in pairs).median * 1e6


def _call() -> None:
    """Be the program whose instructions are counted."""
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders(Path(folder))
        both = {name: contenders[name] for name in (WATCHED, UNWATCHED)}
        for call in both.values():
            for _ in range(_WARM_UP_CALLS):
                call()
        gc.collect()
        gc.freeze()
        for name, call in both.items():
            with valgrind.window(name):
                for _ in range(_COUNTED_CALLS):
                    call()


def _count() -> int:
    """Print what callgrind counted; return what watching costs, in instructions per statement."""
    found = {name: number // _COUNTED_CALLS for name, number in valgrind.count([__file__, "--call"]).items()}
    for name, instructions in found.items():
        say(f"{name:22} {instructions:8} instructions")
    return found[WATCHED] - found[UNWATCHED]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="don't count instructions")
    parser.add_argument("--rounds", type=int, default=200, help="rounds whose median counts")
    parser.add_argument("--calls", type=int, default=100, help="calls of each contender in a round")
    parser.add_argument("--call", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        _call()
        return
    microseconds = _compare(arguments.rounds, arguments.calls)
    kept = microseconds <= MOST_MICROSECONDS
    say(f"watching costs {microseconds:.2f} us per statement (at most {MOST_MICROSECONDS:g})")
    if not arguments.time and not valgrind.why_not():
        instructions = _count()
        kept = kept or instructions <= MOST_INSTRUCTIONS
        say(f"watching costs {instructions} instructions per statement (at most {MOST_INSTRUCTIONS})")
    say("kept" if kept else "NOT KEPT")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
