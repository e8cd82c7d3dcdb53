"""Child processes that never outlive the program that started them.

Run as a script, this file is the watchdog: it waits at the end of a pipe, which closes however the program ends. Then
it ends the process that it watches and removes its folder. ``PR_SET_PDEATHSIG`` would do without a second process, but
it fires when the *thread* that started the child ends.

The script runs by its path with ``python -I -S``, so the module may import the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PATIENCE_SECONDS = 3.0
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine that a server can run as."""

    name: str
    uid: int
    gid: int


def account_for_root(*names: str) -> Account | None:
    """Return the first existing account of *names*, or ``None`` if we aren't root and so can't change users."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    return None


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float, poll_seconds: float = _POLL_SECONDS) -> bool:
    """Poll *condition* until it is true; return False if that takes longer than *timeout_seconds*."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_seconds)
    return True


# --- process trees -------------------------------------------------------------------------------


def process_tree(pid: int) -> list[int]:
    """Return *pid* and its descendants, parents first.

    A process group is not enough: each PostgreSQL backend calls ``setsid`` and leads a group of its own.
    """
    parents = _parents_by_pid()
    tree = [pid]
    for parent in tree:  # grows while we walk
        tree.extend(child for child, its_parent in parents.items() if its_parent == parent and child not in tree)
    return tree


def _parents_by_pid() -> dict[int, int]:
    parents: dict[int, int] = {}
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        for entry in proc.iterdir():
            if entry.name.isdigit():
                # A process may end between the listing and the reading.
                with contextlib.suppress(OSError, IndexError, ValueError):
                    parents[int(entry.name)] = int(_stat_fields(entry)[1])
    elif ps := shutil.which("ps"):
        listing = subprocess.run([ps, "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        for line in listing.splitlines():
            child, parent = line.split()
            parents[int(child)] = int(parent)
    return parents


def _stat_fields(process: Path) -> list[str]:
    # "pid (name) state ppid ...": the name may contain blanks and parentheses.
    return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()


def send_signal(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop_tree(pid: int) -> list[int]:
    """Stop *pid* and its descendants (SIGSTOP); return them, *pid* first, when none of them runs any more."""
    _stop([pid])  # first, so that it starts no more children while we look
    tree = process_tree(pid)
    _stop(tree[1:])
    return tree


def _stop(pids: Sequence[int]) -> None:
    send_signal(pids, signal.SIGSTOP)
    wait_until(lambda: all(_state(pid) in "TtZ" for pid in pids), timeout_seconds=_PATIENCE_SECONDS)


def _state(pid: int) -> str:
    """Return the letter that ``ps`` shows; ``Z`` for a process that is gone, ``T`` if the system doesn't tell."""
    if not Path("/proc/self/stat").exists():
        return "T"
    try:
        return _stat_fields(Path(f"/proc/{pid}"))[0]
    except (OSError, IndexError):
        return "Z"


def kill_tree(pid: int) -> None:
    """Kill *pid* and its descendants, like a power cut: none of them can react.

    Returns when the descendants are gone; the parent of *pid* has to wait for *pid* itself.
    """
    descendants = stop_tree(pid)[1:]  # a stopped parent doesn't notice that its children die
    send_signal(descendants, signal.SIGKILL)
    send_signal([pid], signal.SIGKILL)
    wait_until(lambda: all(map(_is_gone, descendants)), timeout_seconds=_PATIENCE_SECONDS)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return _state(pid) == "Z"  # its new parent may reap it late, but a zombie holds no resources


# --- one child -----------------------------------------------------------------------------------


class ChildProcess:
    """One program in a session of its own, guarded by a watchdog.

    Args:
        folder: the process's files; the watchdog removes it when this program ends.
        abort_signal: asks the program to end at once without saving; a moment later it is killed.
    """

    def __init__(self, folder: Path, *, abort_signal: signal.Signals) -> None:
        self._folder = folder
        self._abort_signal = abort_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(folder), str(int(abort_signal))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C must not reach it
        )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; 0 when nothing runs."""
        return self._process.pid if self._process is not None and self.running else 0

    def spawn(
        self,
        command: Sequence[str],
        *,
        log: Path,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start *command* with its output appended to *log*."""
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",  # the account may not be allowed to read ours
                env=None if environment is None else dict(environment),
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        self._tell_watchdog(self._process.pid)

    def stop(self, number: signal.Signals, *, timeout_seconds: float = 30.0) -> None:
        """Send *number* and wait for the end; kill the process if it doesn't end in time."""
        if self._process is None:
            return
        if self.running:
            self.thaw()
            send_signal([self._process.pid], number)
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                kill_tree(self._process.pid)
        self._reap()

    def kill(self) -> None:
        """Kill the process and all its children (``kill -9``)."""
        if self._process is None:
            return
        if self.running:
            kill_tree(self._process.pid)
        self._reap()

    def freeze(self) -> None:
        """Suspend the process and its children (SIGSTOP): connections stay open and silent."""
        if self.running and self._process is not None:
            stop_tree(self._process.pid)

    def thaw(self) -> None:
        """Let frozen processes go on (SIGCONT)."""
        if self.running and self._process is not None:
            send_signal(process_tree(self._process.pid), signal.SIGCONT)

    def close(self) -> None:
        """End the process at once, remove its folder and stop the watchdog."""
        self.stop(self._abort_signal, timeout_seconds=_PATIENCE_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.close()
        self._watchdog.wait()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        self._tell_watchdog(0)  # another process may get the number from now on

    def _tell_watchdog(self, pid: int) -> None:
        # The watchdog may have been killed.
        with contextlib.suppress(BrokenPipeError):
            if self._watchdog.stdin is not None and not self._watchdog.stdin.closed:
                self._watchdog.stdin.write(b"%d\n" % pid)
                self._watchdog.stdin.flush()


# --- the watchdog --------------------------------------------------------------------------------


def _watch(folder: str, abort_signal: signal.Signals) -> None:
    pid = 0
    for line in sys.stdin:
        pid = int(line)
    if pid and not _is_gone(pid):
        send_signal(process_tree(pid), signal.SIGCONT)
        send_signal([pid], abort_signal)  # PostgreSQL releases its shared memory when it is asked, not when killed
        if not wait_until(lambda: _is_gone(pid), timeout_seconds=_PATIENCE_SECONDS):
            kill_tree(pid)
            wait_until(lambda: _is_gone(pid), timeout_seconds=_PATIENCE_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _watch(sys.argv[1], signal.Signals(int(sys.argv[2])))
