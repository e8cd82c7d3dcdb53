"""Instructions, counted by valgrind's callgrind for chosen parts of a Python program.

The program says itself where a part begins and ends, by valgrind's client requests. Callgrind counts from the first
part on, so a program starts ten times faster than one that is counted from its first instruction on.
``with window("select"):`` does nothing where no valgrind runs.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# A function of (request, default): valgrind recognises the four rotations, which change nothing, and answers instead of
# the exchange behind them; see "The magic instruction sequence" in valgrind.h.
_CALL = {"x86_64": bytes.fromhex("4889f8 4889f2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")}
_RUNNING_ON_VALGRIND = 0x1001
_CALLGRIND = ord("C") << 24 | ord("T") << 16
_DUMP_AT, _START = _CALLGRIND + 3, _CALLGRIND + 4
_BETWEEN = b"between"


def why_not() -> str:
    """Return why instructions can't be counted here; empty: they can."""
    if platform.machine() not in _CALL:
        return f"counting is not ready for {platform.machine()}"
    return "" if shutil.which("valgrind") else "valgrind is not installed"


def count(arguments: Sequence[str], *, hash_seed: int = 0) -> dict[str, int]:
    """Run Python with *arguments* under callgrind; return the instructions of each window.

    Raises:
        RuntimeError: with what the program said, if it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        done = subprocess.run(
            [*command, sys.executable, *arguments],
            env=_environment(hash_seed),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,  # what it said is raised below
        )
        if done.returncode:
            raise RuntimeError(f"the counted program failed:\n{done.stderr[-4000:]}")
        found = dict(filter(None, map(_window, Path(folder).glob("out.*"))))
    found.pop(_BETWEEN.decode(), None)
    return found


def _environment(hash_seed: int) -> dict[str, str]:
    folders = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": os.pathsep.join(folders)}


def _window(dump: Path) -> tuple[str, int] | None:
    """Return the name of a window and its count; ``None`` for the dump at the program's end."""
    name = ""
    with dump.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("desc: Trigger: Client Request: "):
                name = line.rpartition("Request: ")[2].strip()
            elif line.startswith("totals: "):
                return (name, int(line.split()[1])) if name else None
    return None


@contextmanager
def window(name: str) -> Iterator[None]:
    """Count what happens in the block, in all threads, under *name*; what happens between two blocks is left out."""
    request = _client_request()
    if not request(_RUNNING_ON_VALGRIND, 0):
        yield
        return
    between, label = ctypes.create_string_buffer(_BETWEEN), ctypes.create_string_buffer(name.encode())
    # Once on, it stays on: switching it throws away all code that valgrind has translated.
    request(_START, 0)
    request(_DUMP_AT, ctypes.addressof(between))
    yield
    request(_DUMP_AT, ctypes.addressof(label))


@functools.cache
def _client_request() -> Callable[[int, int], int]:
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_CALL[platform.machine()])
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)(
        ctypes.addressof(ctypes.c_char.from_buffer(code))
    )

    def request(number: int, argument: int, _code: mmap.mmap = code) -> int:  # which must live as long
        words = (ctypes.c_uint64 * 6)(number, argument)
        return int(function(ctypes.addressof(words), 0))

    return request
