"""Where the time of a call goes, by layer: cProfile's own time and calls, grouped by package.

    python -m benchmarks.layers                        # a point select on SQLite
    python -m benchmarks.layers postgresql --operation "transaction of 2"

The sync world, and prefiq_db alone. A function of C (a dictionary's ``get``, say) belongs to who called it, and the
driver's functions to the driver. cProfile makes each Python call dearer, so a layer of many small functions looks
larger than it is; the shares are for finding out where to look, and instructions say what was won.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import prefiq_db
from benchmarks import workload as w
from benchmarks.contenders import OURS
from benchmarks.instructions import OPERATIONS
from benchmarks.measuring import say
from benchmarks.places import DATABASES, make_place
from benchmarks.worlds import SyncWorld

_PACKAGE = Path(prefiq_db.__file__).parent
_DRIVERS = ("sqlite3", "psycopg", "psycopg_binary", "pymysql")
_WARM_UP_CALLS = 600

#: File, line, name: what cProfile calls a function; ``~`` is the file of those of C.
Function = tuple[str, int, str]


def layer(function: Function) -> str:
    """Return the layer of a function: ``prefiq_db/execution``, ``sqlalchemy/engine``, ``driver`` or ``Python``."""
    file, _, name = function
    if file == "~":
        return "driver" if any(driver in name for driver in _DRIVERS) else "Python"
    path = Path(file)
    if path.is_relative_to(_PACKAGE):
        return f"prefiq_db/{path.relative_to(_PACKAGE).parts[0].removesuffix('.py')}"
    for package in _DRIVERS:
        if package in path.parts:
            return "driver"
    if "sqlalchemy" in path.parts:
        return f"sqlalchemy/{path.parts[path.parts.index('sqlalchemy') + 1].removesuffix('.py')}"
    return "Python"


def by_layer(stats: Mapping[Function, Any]) -> tuple[Counter[str], Counter[str]]:
    """Return the own seconds and the calls of each layer, from ``pstats.Stats.stats``."""
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for function, (_, count, own, _, callers) in stats.items():
        mine = layer(function)
        if function[0] != "~" or mine == "driver" or not callers:
            seconds[mine] += own
            calls[mine] += count
            continue
        for caller, (_, times, part, _) in callers.items():
            seconds[layer(caller)] += part
            calls[layer(caller)] += times
    return seconds, calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", nargs="?", choices=DATABASES, default="sqlite")
    parser.add_argument("--operation", choices=(*OPERATIONS, w.MANY_ROWS), default=w.POINT)
    parser.add_argument("--calls", type=int, default=3000)
    options = parser.parse_args()
    world, profile = SyncWorld(), cProfile.Profile(time.process_time)  # a wait for the server is no work
    with make_place(options.database) as place, world.opened(place, {OURS}) as contenders:
        call = contenders[OURS][options.operation]
        world.call(call, _WARM_UP_CALLS)
        profile.enable()
        for _ in range(options.calls):
            call()
        profile.disable()
    stats: Any = pstats.Stats(profile)
    seconds, calls = by_layer(stats.stats)
    say(f"{options.operation}, {place.name} sync: share of own time, and calls of functions, by layer")
    for name, own in seconds.most_common():
        if own > 0.005 * seconds.total():
            say(f"  {name:28}{own / seconds.total():6.1%}{calls[name] / options.calls:8.1f}")


if __name__ == "__main__":
    main()
