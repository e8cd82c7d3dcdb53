"""A million rows need hardly more memory than one: measured in a process of its own, by its peak resident memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import Backend

MILLION = 1_000_000
MOST_BYTES = 16 * 2**20
# What a list of rows needs, far beyond the limit, in a tenth of the rows.
ENOUGH = 100_000

_ROWS = {
    "sqlite": "with recursive t(n) as (select 1 union all select n + 1 from t where n < :rows)"
    " select n, n * 7 as seven, 'row number ' || n as word from t",
    "postgresql": "select n, n * 7 as seven, 'row number ' || n as word"
    " from generate_series(1, cast(:rows as integer)) as t(n)",
    "mariadb": "select seq as n, seq * 7 as seven, concat('row number ', seq) as word"
    " from seq_1_to_1000000 where seq <= :rows",
}
# The world that takes less time for a million rows.
_WORLD = {"sqlite": "sync", "postgresql": "sync", "mariadb": "async"}

_PROGRAM = """
import asyncio, sys
from prefiq_db import AsyncDatabase, Database

url, world, verb, statement, rows = sys.argv[1:]

def peak_bytes():
    # Of this program alone: getrusage() starts at the peak of the process that started it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))

def read(db, rows):
    if verb == "fetch_all":
        return sum(row.n for row in db.fetch_all(statement, {"rows": rows}))
    with db.stream(statement, {"rows": rows}) as stream:
        return sum(row.n for row in stream)

async def read_async(db, rows):
    total = 0
    async with db.stream(statement, {"rows": rows}) as stream:
        async for row in stream:
            total += row.n
    return total

async def main_async(rows):
    async with AsyncDatabase(url, pool_size=1) as db:
        assert await read_async(db, 1) == 1
        before = peak_bytes()
        assert await read_async(db, rows) == rows * (rows + 1) // 2
        return peak_bytes() - before

def main(rows):
    with Database(url, pool_size=1) as db:
        assert read(db, 1) == 1
        before = peak_bytes()
        assert read(db, rows) == rows * (rows + 1) // 2
        return peak_bytes() - before

print(asyncio.run(main_async(int(rows))) if world == "async" else main(int(rows)))
"""


def _peak_bytes(backend: Backend, world: str, verb: str, rows: int) -> int:
    """Return by how much the peak of memory grows from one row to *rows* rows."""
    arguments: list[Any] = [backend.url, world, verb, _ROWS[backend.name], rows]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_million_rows_need_no_more_than_a_batch(backend: Backend) -> None:
    """At most 16 MiB more resident memory than for one row."""
    assert _peak_bytes(backend, _WORLD[backend.name], "stream", MILLION) <= MOST_BYTES


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
def test_control_all_rows_at_once_need_more(backend: Backend) -> None:
    """The same measurement sees a tenth of the rows when they are in memory together."""
    assert _peak_bytes(backend, "sync", "fetch_all", ENOUGH) > MOST_BYTES
