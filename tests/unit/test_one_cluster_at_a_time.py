"""A cluster runs when no other process runs one; on one worker, so that no other waits for it."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.clusters import hold
from tests.conftest import _ALONE, _longest_first

_HOLDER = """
import sys, pathlib
from tests.clusters import hold
with hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _try(lock: Path) -> None:
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_another_process_waits_until_the_holder_ends(tmp_path: Path) -> None:
    """Also one that is killed: nobody has to remove anything."""
    lock = tmp_path / "lock"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", _HOLDER, str(lock)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError):
            _try(lock)
        holder.kill()
        holder.wait()
        with hold(lock), pytest.raises(BlockingIOError):
            _try(lock)
        _try(lock)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_clusters_are_the_head_of_the_first_share(workers: int) -> None:
    """Nothing is lost, and each cluster's tests stand together."""
    names = [f"tests/unit/test_{number}.py::test" for number in range(400)]
    names += [f"{name}::test_{number}" for name in _ALONE for number in range(5)]
    names += [f"tests/docs/test_tutorial.py::test_{number}" for number in range(9)]
    items: list[Any] = [SimpleNamespace(nodeid=name) for name in reversed(names)]
    ordered = [item.nodeid for item in _longest_first(items, workers)]
    assert sorted(ordered) == sorted(names)
    head = ordered[: 5 * len(_ALONE)]
    assert [name.partition("::")[0] for name in head] == [name for name in _ALONE for _ in range(5)]
    first = len(names) // workers
    assert not any(name.startswith(_ALONE) for name in ordered[first:])
