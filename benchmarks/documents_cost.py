"""What a document verb costs over bare PyMongo: a ``find_one`` by ``_id``, in instructions and in microseconds.

    python -m benchmarks.documents_cost            # by instructions (needs valgrind) and by time
    python -m benchmarks.documents_cost --time     # the time only

The server is the scripted one of the tests, in a process of its own: it answers every find with the same document, and
its work doesn't count. Ours is with all of prefiq_db's own observability on, as a ``MongoDatabase`` has it.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from tests.mongo.scripted_server import ScriptedServer

from benchmarks import valgrind
from benchmarks.measuring import say
from prefiq_db.mongo import MongoDatabase

BARE, OURS = "bare PyMongo", "prefiq_db"
_MODULE = "benchmarks.documents_cost"
_WARM_UP_CALLS, _CALLS = 40, 200


@contextmanager
def server() -> Iterator[str]:
    """Run the server in a process of its own; yield its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def count(url: str, *, seed: int = 0) -> dict[str, int]:
    """Return the instructions of a ``find_one``, by contender."""
    windows = valgrind.count(["-m", _MODULE, "--inside", url], hash_seed=seed)
    return {name: windows[name] // _CALLS for name in (BARE, OURS)}


def _serve() -> None:
    with ScriptedServer() as scripted:
        scripted.documents["item"] = [{"_id": 1, "sku": "A1", "qty": 3}]
        scripted.keeps_record = False
        sys.stdout.write(f"{scripted.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


def _contenders(url: str) -> dict[str, Callable[[], object]]:
    # Both look after their server as seldom as PyMongo can be told to: that is no part of a call.
    url += "&heartbeatFrequencyMS=600000"
    db = MongoDatabase(url)
    db.open()
    client: MongoClient[dict[str, Any]] = MongoClient(url)
    collection = client.shop.item
    contenders: dict[str, Callable[[], object]] = {
        BARE: lambda: collection.find_one({"_id": 1}),
        OURS: lambda: db.find_one("item", {"_id": 1}),
    }
    for call in contenders.values():
        for _ in range(_WARM_UP_CALLS):
            call()
    return contenders


def _inside(url: str) -> None:
    """Be the program that is counted."""
    contenders = _contenders(url)
    gc.collect()
    gc.freeze()
    for name, call in contenders.items():
        with valgrind.window(name):
            for _ in range(_CALLS):
                call()


def _time(url: str) -> None:
    contenders = _contenders(url)
    times: dict[str, list[float]] = {who: [] for who in contenders}
    for _ in range(30):
        for who, call in contenders.items():
            started = time.process_time()
            for _ in range(50):
                call()
            times[who].append((time.process_time() - started) / 50 * 1e6)
    for who, each in times.items():
        say(f"{who:14}{statistics.median(each):9.0f} microseconds of processor time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="the time only")
    parser.add_argument("--repeat", type=int, default=1, help="programs, each with another hash seed: shows the spread")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--inside", metavar="URL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        _serve()
    elif chosen.inside:
        _inside(chosen.inside)
    else:
        with server() as url:
            _time(url)
            if chosen.time:
                return
            if reason := valgrind.why_not():
                raise SystemExit(reason)
            for seed in range(chosen.repeat):
                found = count(url, seed=seed)
                say(f"{found[BARE]:,} and {found[OURS]:,} instructions: {found[OURS] - found[BARE]:,} more")


if __name__ == "__main__":
    main()
