"""However many texts an application makes up, the memory of a process stays flat."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# The caches hold one or two thousand each: what has not grown by now does not grow with 200,000, which take minutes.
TEXTS = 6_000
MOST_BYTES = 6 * 2**20

_PROGRAM = """
import gc, sys
from prefiq_db import Database

def resident_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))

url, texts, keeps = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "keeps"
kept = []
with Database(url, pool_size=1) as db:
    for number in range(texts):
        text = f"select {number} as number_{number} {'-- ' + 'x' * 2000}"
        for _ in range(3):  # the third time on the short way
            assert db.fetch_value(text) == number
        if keeps:
            kept.append(text + " ")
        if number == texts // 3:
            gc.collect()
            before = resident_bytes()
    gc.collect()
    print(resident_bytes() - before)
"""


def _growth_bytes(folder: Path, how: str) -> int:
    arguments = [f"sqlite:///{folder / 'a.db'}", str(TEXTS), how]
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_is_flat_over_many_texts(tmp_path: Path) -> None:
    assert _growth_bytes(tmp_path, "drops") < MOST_BYTES


def test_control_a_program_that_keeps_its_texts_grows(tmp_path: Path) -> None:
    assert _growth_bytes(tmp_path, "keeps") > MOST_BYTES
