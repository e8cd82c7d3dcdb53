"""What a document verb costs over bare PyMongo: a ``find_one`` by ``_id``, in instructions and in microseconds.

    python benchmarks/documents_cost.py            # by instructions (needs valgrind) and by time
    python benchmarks/documents_cost.py --time     # the time only

The server is the scripted one of the tests, in a process of its own: it answers every find with the same document, and
its work doesn't count. Ours is with all of prefiq_db's own observability on, as a ``MongoDatabase`` has it. The
instructions are the difference between runs of one program with more and fewer calls; both clients live in each run.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pymongo import MongoClient
from tests.mongo.scripted_server import ScriptedServer

from prefiq_db.mongo import MongoDatabase

MOST_INSTRUCTIONS = 40_000
_WARM_UP_CALLS, _COUNTED_CALLS = 50, 200


def _serve() -> None:
    """Be the server: write the URL, and run until standard input ends."""
    with ScriptedServer() as server:
        server.documents["item"] = [{"_id": 1, "sku": "A1", "qty": 3}]
        server.keeps_record = False
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


def _contenders(url: str) -> dict[str, Callable[[], object]]:
    db = MongoDatabase(url)
    db.open()
    client: MongoClient[dict[str, Any]] = MongoClient(url)
    collection = client.shop.item
    return {"bare": lambda: collection.find_one({"_id": 1}), "ours": lambda: db.find_one("item", {"_id": 1})}


def _run_calls(url: str, who: str, calls: int) -> None:
    """Be a measured program: *calls* calls of *who* after the warm-up."""
    contenders = _contenders(url)
    for call in contenders.values():
        for _ in range(_WARM_UP_CALLS):
            call()
    gc.collect()
    gc.freeze()
    call = contenders[who]
    for _ in range(calls):
        call()
    os._exit(0)


def _instructions(url: str, who: str, calls: int, folder: Path) -> int:
    out = folder / "callgrind.out"
    program = [sys.executable, __file__, "--calls", str(calls), "--who", who, "--url", url]
    tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
    subprocess.run([*tool, *program], check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M)
    assert found is not None
    return int(found[1])


def _count(url: str) -> bool:
    with tempfile.TemporaryDirectory() as name:
        per_call: dict[str, float] = {}
        for who in ("bare", "ours"):
            less, more = (_instructions(url, who, calls, Path(name)) for calls in (0, _COUNTED_CALLS))
            per_call[who] = (more - less) / _COUNTED_CALLS
    added = per_call["ours"] - per_call["bare"]
    sys.stdout.write(f"bare PyMongo {per_call['bare']:9,.0f} instructions\nours         {per_call['ours']:9,.0f}\n")
    sys.stdout.write(f"a find_one costs {added:,.0f} more (at most {MOST_INSTRUCTIONS:,})\n")
    return added <= MOST_INSTRUCTIONS


def _time(url: str) -> None:
    contenders = _contenders(url)
    times: dict[str, list[float]] = {who: [] for who in contenders}
    for call in contenders.values():
        for _ in range(_WARM_UP_CALLS):
            call()
    for _ in range(30):
        for who, call in contenders.items():
            started = time.process_time()
            for _ in range(50):
                call()
            times[who].append((time.process_time() - started) / 50 * 1e6)
    found = {who: statistics.median(each) for who, each in times.items()}
    sys.stdout.write(f"microseconds of processor time: bare {found['bare']:.0f}, ours {found['ours']:.0f}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="the time only")
    for name in ("--serve", "--calls", "--who", "--url"):
        parser.add_argument(name, nargs="?", const="yes", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        _serve()
        return 0
    if chosen.calls is not None:
        _run_calls(chosen.url, chosen.who, int(chosen.calls))
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        _time(url)
        if chosen.time:
            return 0
        if shutil.which("valgrind") is None:
            sys.stdout.write("valgrind is not installed: no verdict\n")
            return 2
        return 0 if _count(url) else 1
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
