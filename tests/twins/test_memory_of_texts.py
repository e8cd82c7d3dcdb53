"""However many texts and constructs an application makes up, the memory of a process stays flat, while all is counted.

``PREFIQ_DISTINCT_TEXTS=200000`` makes the short version, on SQLite, the long one on each database.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import Backend
from tests.docs.pages import ROOT

# The caches hold one or two thousand each: what has not grown by then hardly grows with 200,000, which take minutes.
TEXTS = int(os.environ.get("PREFIQ_DISTINCT_TEXTS") or 6_000)
IS_LONG = TEXTS >= 100_000
MOST_BYTES = 6 * 2**20
#: by how much a cache may be fuller at one time than at another
MOST_BLOCKS = 150_000

_BACKENDS = ["sqlite", "postgresql", "mariadb"] if IS_LONG else ["sqlite"]

pytestmark = [
    pytest.mark.parametrize(
        "backend", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in _BACKENDS], indirect=True
    ),
    pytest.mark.timeout(max(600, TEXTS // 10)),
]


def _found(world: str, backend: Backend, texts: int, how: str) -> dict[str, Any]:
    """Run the program, and show what it found."""
    command = [sys.executable, "-m", "tests.twins.many_texts", world, backend.url, str(texts), how]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"{backend.name} {world} {how}: {done.stdout}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_memory_is_flat_over_many_texts(world: str, backend: Backend) -> None:
    found = _found(world, backend, TEXTS, "drops")
    assert found["growth_bytes"] < MOST_BYTES, found
    assert found["growth_blocks"] < MOST_BLOCKS, found
    held = found["caches"]
    assert held["largest cache"] <= 2048
    assert held["compiled"] <= 750
    assert held["constructs"] <= 1500, "only those that SQLAlchemy's own cache still holds"
    assert held["statistics"] <= 501
    assert held["slow log"] <= 1000
    assert held.get("prepared at the server", 0) <= 110
    assert held.get("prepared by the driver", 0) <= 110
    assert held.get("counted by the driver", 0) <= 110


@pytest.mark.parametrize("how", ["keeps", "unbounded"])
def test_control_what_keeps_its_texts_is_found(world: str, backend: Backend, how: str) -> None:
    """The caller that keeps each text, and our caches if they had no limit."""
    found = _found(world, backend, min(TEXTS, 6_000), how)
    assert found["growth_bytes"] > MOST_BYTES or found["growth_blocks"] > MOST_BLOCKS, found
    if how == "unbounded":
        assert found["caches"]["largest cache"] > 2048
