"""What a batch of two costs, at one millisecond of network: against plain SQLAlchemy's transaction of the same two.

    python -m benchmarks.batch                 # PostgreSQL and MariaDB, sync and async
    python -m benchmarks.batch --rounds 40

It starts private servers, and puts a link with half a millisecond each way in between. The contenders take turns in
random order; the ratio is the median of the rounds, each against its own neighbour.

What was measured: docs/performance.md.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import workload as w
from benchmarks.contenders import OURS, PLAIN
from benchmarks.measuring import Spread, ratio, say, take_turns
from benchmarks.places import DATABASES, Place, make_place
from benchmarks.slow_link import slow_link
from benchmarks.worlds import AsyncWorld, SyncWorld, World
from prefiq_db import AsyncDatabase, Database

MOST = 0.27
_UPDATES = [(update.sql, update.values) for update in w.statements("named").updates]


@contextmanager
def _batch(world: World, place: Place, runner: asyncio.Runner) -> Iterator[Callable[[], Any]]:
    if world.name == "sync":
        with Database(place.url, ssl_mode="disable") as db:
            yield lambda: db.batch(_UPDATES)
        return
    adb = AsyncDatabase(place.url, ssl_mode="disable")
    runner.run(adb.open())
    try:
        yield lambda: adb.batch(_UPDATES)
    finally:
        runner.run(adb.close())


def _measure(world: World, place: Place, runner: asyncio.Runner, rounds: int, calls: int) -> tuple[Spread, Spread]:
    """Return the ratio of the two, and the seconds of ours."""
    with world.opened(place, {PLAIN}) as contenders, _batch(world, place, runner) as batch:
        both = {OURS: batch, PLAIN: contenders[PLAIN][w.TRANSACTION]}
        seconds = take_turns({name: world.turn(call, w.TRANSACTION, calls) for name, call in both.items()}, rounds)
    return ratio(seconds, OURS, PLAIN), Spread.of(seconds[OURS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds whose median counts")
    parser.add_argument("--calls", type=int, default=20, help="calls of each contender in a round")
    options = parser.parse_args()
    kept = True
    for name in DATABASES[1:]:
        with make_place(name) as fast, slow_link(fast.port) as port, asyncio.Runner() as runner:
            place = fast.at_port(port)
            for world in (SyncWorld(), AsyncWorld(runner)):
                found, own = _measure(world, place, runner, options.rounds, options.calls)
                kept = kept and found.median <= MOST
                times = f"x{found.median:.3f} ({found.low:.3f} to {found.high:.3f}) of SQLAlchemy (at most {MOST})"
                say(f"{name:11} {world.name:6} {own.median * 1000:6.2f} ms   {times}")
    say("kept" if kept else "NOT KEPT")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
