"""A process forked off a warm interpreter is what ``subprocess`` would have started, with the imports done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import interpreters

_REPORT = """
import gc, json, os, random, signal, sys, threading, warnings
main = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv, "orig": sys.orig_argv[1:], "path": sys.path, "cwd": os.getcwd(), "environ": dict(os.environ),
    "names": sorted(set(vars(main)) - {"__loader__", "__annotations__", "__cached__", "__file__"}),
    "parent": os.getppid(), "group": os.getpgid(0), "session": os.getsid(0), "mask": os.umask(0o22),
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)],
    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "files": sorted(set(os.listdir("/proc/self/fd")) - {"3"}), "threads": len(os.listdir("/proc/self/task")),
    "warnoptions": sys.warnoptions, "filters": [str(f) for f in warnings.filters],
    "bytecode": sys.dont_write_bytecode, "gc": gc.isenabled(),
    "streams": [[s.encoding, s.errors, s.line_buffering, s.write_through, s.fileno(), s.isatty(), s.mode]
                for s in (sys.stdin, sys.stdout, sys.stderr)],
    "input": sys.stdin.read(),
}))
print("on stderr", file=sys.stderr)
"""


@pytest.fixture(params=["text", "file", "module"])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The same program as ``-c`` text, as a file and as a module."""
    (tmp_path / "reporting.py").write_text(_REPORT)
    words = {"text": ["-c", _REPORT], "file": [str(tmp_path / "reporting.py")], "module": ["-m", "reporting"]}
    return [sys.executable, "-W", "error", *words[request.param], "one", "--two"]


def _said(command: list[str], cwd: Path, *, fresh: bool) -> tuple[dict[str, Any], str, int]:
    process = interpreters.Popen(
        command, fresh=fresh, cwd=cwd, env={**os.environ, "OF_THE_TEST": "yes"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, err = process.communicate("typed", timeout=60)
    assert out, err
    return json.loads(out), err, process.returncode


def test_a_forked_program_finds_what_a_fresh_one_finds(command: list[str], tmp_path: Path) -> None:
    warm, fresh = (_said(command, tmp_path, fresh=fresh) for fresh in (False, True))
    assert {name: found for name, found in warm[0].items() if found != fresh[0][name]} == {}
    assert warm[1:] == fresh[1:]
    assert warm[0]["parent"] == os.getpid()
    assert warm[0]["input"] == "typed"


def test_a_script_of_this_environment_is_forked_too() -> None:
    """As the kernel starts it: with the interpreter in its first line, and the script as that one's program."""
    alembic = str(Path(sys.executable).with_name("alembic"))
    assert interpreters._request([alembic, "heads"], None, {}) == interpreters._request(
        [sys.executable, alembic, "heads"], None, {}
    )
    warm, fresh = (
        interpreters.run([alembic, "--help"], fresh=each, capture_output=True, text=True) for each in (False, True)
    )
    assert (warm.returncode, warm.stdout, warm.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)
    assert warm.stdout.startswith("usage: alembic ")
    assert interpreters._request(["/bin/sh", "-c", "true"], None, {}) is None


def test_it_has_imported_already_and_a_fresh_one_has_not() -> None:
    ask = [sys.executable, "-c", "import sys; print('prefiq_db' in sys.modules)"]
    said = [interpreters.run(ask, capture_output=True, text=True, fresh=fresh).stdout for fresh in (False, True)]
    assert said == ["True\n", "False\n"]


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('sorry')", 1),
        ("raise ValueError", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("os._exit(9)", 9),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("threading.Thread(target=lambda: time.sleep(0.05) or print('late')).start()", 0),
        ("atexit.register(print, 'at the end')", 0),
        ("weakref.finalize(sys, print, 'finalized')", 0),
    ],
)
def test_it_ends_as_a_fresh_one_ends(ending: str, code: int) -> None:
    program = f"import atexit, os, signal, sys, threading, time, weakref\nprint('here', flush=True)\n{ending}"
    warm, fresh = (
        interpreters.run([sys.executable, "-c", program], capture_output=True, text=True, fresh=fresh)
        for fresh in (False, True)
    )
    assert (warm.returncode, warm.stdout) == (fresh.returncode, fresh.stdout)
    assert warm.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]
    assert warm.returncode == code


def test_two_processes_draw_different_numbers() -> None:
    draw = "import random, tempfile, uuid; print(random.random(), uuid.uuid4(), next(tempfile._get_candidate_names()))"
    said = {interpreters.run([sys.executable, "-c", draw], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(set(" ".join(said).split())) == 6


def test_what_it_cannot_imitate_is_started() -> None:
    ask = [sys.executable, "-c", "import sys; print('prefiq_db' in sys.modules)"]
    for command, variables in (
        (ask, {"PYTHONHASHSEED": "7"}),
        (ask, {"PYTHONPATH": "/elsewhere"}),
        (ask, {"LC_ALL": "POSIX"}),
        ([sys.executable, "-I", *ask[1:]], {}),
    ):
        done = interpreters.run(command, capture_output=True, text=True, env={**os.environ, **variables})
        assert done.stdout == "False\n", (command, variables)


def test_after_a_time_limit_it_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        interpreters.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)
