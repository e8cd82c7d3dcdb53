"""Python programs as processes of their own, without the second that each of them needs to import everything.

``Popen`` and ``run`` are those of ``subprocess`` for ``[sys.executable, ...]``, and for a script whose first line names
that interpreter, such as the ``alembic`` of this environment. Where they can, they have the process
forked off a warm interpreter (``warm_interpreter.py``) instead of started: it is a child of ours with its own
arguments, directory, environment and files, and ends as Python ends; it has only imported already. What a warm
interpreter cannot imitate is started as usual: see `_request`. A test that is about the start itself calls
``subprocess``, or asks for it with ``fresh=True``.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PROGRAM = Path(__file__).with_name("warm_interpreter.py")
_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG", "TZDIR")
# The others change how an interpreter starts, and PYTHONPATH what it finds.
_IMITATED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class Popen(subprocess.Popen[Any]):
    """``subprocess.Popen`` for a Python program; the process may be forked off a warm interpreter."""

    def __init__(self, args: Sequence[Any], *, fresh: bool = False, **options: Any) -> None:
        self._fresh = fresh
        super().__init__(args, **options)

    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *rest: Any
    ) -> None:
        request = None if self._fresh else _request([os.fsdecode(word) for word in args], cwd, env)
        if request is None:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)  # type: ignore[misc]
            return
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = rest[3:9]
        files = [own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            self.pid = _warm().fork(request, files)
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def run(
    args: Sequence[Any],
    *,
    fresh: bool = False,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """``subprocess.run`` for a Python program; the process may be forked off a warm interpreter."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(args, fresh=fresh, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def _request(command: list[str], cwd: Any, env: Mapping[str, str] | None) -> dict[str, Any] | None:
    """Return what a warm interpreter must be told; ``None`` for what only a new one can do."""
    environ = dict(os.environ if env is None else env)
    command = _as_the_kernel_starts_it(command)
    if sys.platform != "linux" or command[0] != sys.executable:
        return None
    if any(environ.get(name) != os.environ.get(name) for name in (*_LOCALE, "PYTHONPATH")):
        return None
    if any(name.startswith("PYTHON") and name not in _IMITATED for name in environ):
        return None
    words, options = command[1:], []
    while words[:1] == ["-W"]:
        options.append(words[1])
        words = words[2:]
    kind = {"-m": "module", "-c": "text"}.get(words[0], "file")
    if kind == "file" and words[0].startswith("-"):
        return None
    program, *arguments = words if kind == "file" else words[1:]
    return {
        "command": command, "kind": kind, "program": program, "arguments": arguments, "options": options,
        "cwd": os.fspath(cwd) if cwd is not None else os.getcwd(), "env": environ,
    }  # fmt: skip


def _as_the_kernel_starts_it(command: list[str]) -> list[str]:
    """Return *command* with the interpreter in front, if it names a script of this environment's."""
    program = Path(command[0])
    if command[0] == sys.executable or not program.is_absolute() or program.parent != Path(sys.executable).parent:
        return command
    with program.open("rb") as file:
        first_line = file.readline().decode(errors="replace").rstrip()
    return [sys.executable, *command] if first_line == f"#!{sys.executable}" else command


class _WarmInterpreter:
    """The process that forks; one for this process, started when the first program asks."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._channel, theirs = socket.socketpair()
        kept = {name: value for name, value in os.environ.items() if name in _LOCALE or not name.startswith("PYTHON")}
        if "PYTHONPATH" in os.environ:
            kept["PYTHONPATH"] = os.environ["PYTHONPATH"]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=kept,
            )
        atexit.register(self._end)

    def fork(self, request: dict[str, Any], files: list[int]) -> int:
        """Return the id of a new process with *files* as its standard input, output and errors; it is our child."""
        body = json.dumps(request).encode()
        with self._turn:
            _adopt_orphans(True)
            try:
                socket.send_fds(self._channel, [len(body).to_bytes(4, "big")], files)
                self._channel.sendall(body)
                answer = self._channel.recv(4)
            finally:
                _adopt_orphans(False)
        if not answer:
            raise RuntimeError("the warm interpreter has ended; what it said is on stderr")
        return int.from_bytes(answer, "big")

    def _end(self) -> None:
        self._channel.close()
        self._process.wait()


@functools.cache
def _warm() -> _WarmInterpreter:
    return _WarmInterpreter()


def _adopt_orphans(on: bool) -> None:
    """Let the orphans among our descendants become our children: then we can wait for them as for those we started."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, int(on), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
