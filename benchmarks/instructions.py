"""How many instructions a call takes in user space, counted by valgrind: what the machine's load cannot change.

    python -m benchmarks.instructions             # prefiq_db beside the raw driver and SQLAlchemy
    python -m benchmarks.instructions sqlite --repeat 5 --ours

One process per database; its server runs outside of valgrind. What the kernel does for it is not in the numbers. What
prefiq_db notes during a call and works out later is counted with it: ``stats()`` makes it do that. Two runs differ by
some percent, because CPython's cache of attribute lookups depends on where things lie in memory: see ``--repeat``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks import valgrind
from benchmarks import workload as w
from benchmarks.contenders import LISTENER, OURS, PLAIN, RAW, SETTLE, Operations
from benchmarks.measuring import say
from benchmarks.places import DATABASES, Place, make_place
from benchmarks.worlds import AsyncWorld, SyncWorld, World
from prefiq_db import Database

#: The operations that are counted.
OPERATIONS = (w.POINT, w.SELECT, w.INSERT, w.BUILT, w.TRANSACTION, w.BUILT_TRANSACTION)
_WARM_UP_CALLS, _CALLS = 12, 40
_LATER, _NOTHING_LEFT = "later", "nothing left"


def can_count() -> bool:
    return not valgrind.why_not()


def count(
    name: str, place: Place | None = None, *, ours_only: bool = False, seed: int = 0
) -> dict[str, dict[str, int]]:
    """Return the instructions of a call, by ``database world operation`` and contender."""
    with _given(place) if place else make_place(name) as there:
        arguments = ["-m", "benchmarks.instructions", there.name, "--inside", there.url, "--version", there.version]
        windows = valgrind.count([*arguments, *(["--ours"] if ours_only else [])], hash_seed=seed)
    found: dict[str, dict[str, int]] = {}
    for window in sorted(each for each in windows if each.count(": ") == 2):
        world, operation, contender = window.split(": ")
        later = windows[f"{window}: {_LATER}"] - windows[f"{window}: {_NOTHING_LEFT}"]
        found.setdefault(f"{name} {world} {operation}", {})[contender] = (windows[window] + later) // _CALLS
    return found


@contextmanager
def _given(place: Place) -> Iterator[Place]:
    yield place


# --- the program that is counted -----------------------------------------------------------------


def _run(place: Place, *, ours_only: bool) -> None:
    names = {OURS} if ours_only else {RAW, PLAIN, OURS}
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        for world in (SyncWorld(), AsyncWorld(runner)):
            contenders = dict(stack.enter_context(world.opened(place, names)))
            if world.name == "sync":
                contenders[LISTENER] = stack.enter_context(_listened(place))
            for name, operations in contenders.items():
                settle = operations.get(SETTLE, _nothing)
                for operation, call in _counted(operations):
                    _count(world, f"{world.name}: {operation}: {name}", call, settle)


def _counted(operations: Operations) -> Iterator[tuple[str, Callable[[], Any]]]:
    for operation in (*OPERATIONS, w.LISTENED):
        if operation in operations:
            yield operation, operations[operation]


@contextmanager
def _listened(place: Place) -> Iterator[Operations]:
    point = w.statements("named").point
    with Database(place.url, pool_size=1) as db:
        db.hooks.after(lambda event: None)
        yield {w.LISTENED: lambda: db.fetch_all(point.sql, point.values), SETTLE: db.stats}


def _nothing() -> None:
    """Only prefiq_db takes notes."""


def _count(world: World, name: str, call: Callable[[], Any], settle: Callable[[], object]) -> None:
    world.call(call, _WARM_UP_CALLS)
    settle()
    settle()  # warm, too
    gc.collect()
    gc.freeze()  # the collector leaves out what lives on: the modules are no part of a call
    with valgrind.window(name):
        world.call(call, _CALLS)
    _count_the_rest(name, settle)


def _count_the_rest(name: str, settle: Callable[[], object]) -> None:
    """Count what the calls left for later: what ``settle`` takes after them, and when there is nothing to do."""
    for rest in (_LATER, _NOTHING_LEFT):
        with valgrind.window(f"{name}: {rest}"):
            settle()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("databases", nargs="*", default=DATABASES)
    parser.add_argument("--ours", action="store_true", help="count prefiq_db alone")
    parser.add_argument("--repeat", type=int, default=1, help="programs, each with another hash seed: shows the spread")
    parser.add_argument("--inside", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--version", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _run(Place(options.databases[0], options.inside, options.version), ours_only=options.ours)
        return
    if reason := valgrind.why_not():
        raise SystemExit(reason)
    for database in options.databases:
        with make_place(database) as place:
            runs = [count(database, place, ours_only=options.ours, seed=seed) for seed in range(options.repeat)]
        for operation, contenders in runs[0].items():
            for contender in contenders:
                counts = [run[operation][contender] for run in runs]
                spread = f" to {max(counts):9,}" if options.repeat > 1 else ""
                say(f"{operation:36}{contender:14}{min(counts):9,}{spread}")


if __name__ == "__main__":
    main()
