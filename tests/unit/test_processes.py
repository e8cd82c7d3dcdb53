"""Process trees, and the watchdog that outlives its program by a moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefiq_db.testing.processes import ChildProcess, process_tree, wait_until


def grandchildren_of(command: str) -> list[str]:
    """Return a program whose children lead process groups of their own, like PostgreSQL's."""
    return [sys.executable, "-c", f"import subprocess; {command}"]


_STUBBORN = (
    "[subprocess.Popen(['sleep', '600'], start_new_session=True) for _ in range(2)]; import time; time.sleep(600)"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


def states(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        try:
            found.add(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        except FileNotFoundError:
            found.add("gone")
    return found


def test_kill_reaches_children_in_groups_of_their_own(folder: Path) -> None:
    child = ChildProcess(folder, abort_signal=signal.SIGKILL)
    child.spawn(grandchildren_of(_STUBBORN), log=folder / "log")
    assert wait_until(lambda: len(process_tree(child.pid)) == 3, timeout_seconds=10)
    tree = process_tree(child.pid)
    child.freeze()
    assert states(tree) == {"T"}
    child.thaw()
    assert wait_until(lambda: "T" not in states(tree), timeout_seconds=10)
    child.kill()
    assert states(tree) <= {"gone", "Z"}
    assert (child.running, child.pid) == (False, 0)
    child.kill()
    child.close()
    assert not folder.exists()


def test_the_end_of_a_program_that_ignores_the_polite_signal_is_enforced(folder: Path) -> None:
    child = ChildProcess(folder, abort_signal=signal.SIGTERM)
    child.spawn(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"], log=folder / "log")
    assert wait_until(lambda: (folder / "log").read_text() == "ready\n", timeout_seconds=10)
    tree = process_tree(child.pid)
    child.stop(signal.SIGTERM, timeout_seconds=0.05)
    assert states(tree) <= {"gone", "Z"}
    child.close()


def test_the_watchdog_does_not_touch_what_ended_before(folder: Path) -> None:
    """A number that was reaped may belong to another process by the time the program ends."""
    other = subprocess.Popen(["sleep", "600"])
    script = (
        "import signal, sys; from pathlib import Path; from prefiq_db.testing.processes import ChildProcess; "
        f"child = ChildProcess(Path({str(folder)!r}), abort_signal=signal.SIGKILL); "
        f"child._tell_watchdog({other.pid}); child._tell_watchdog(0); import os; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert wait_until(lambda: not folder.exists(), timeout_seconds=10)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_watchdog_that_was_killed_does_not_break_the_end(folder: Path) -> None:
    child = ChildProcess(folder, abort_signal=signal.SIGKILL)
    os.kill(child._watchdog.pid, signal.SIGKILL)
    child._watchdog.wait()
    child.spawn(["sleep", "600"], log=folder / "log")
    tree = process_tree(child.pid)
    child.close()
    assert states(tree) == {"gone"}
    assert not folder.exists()
