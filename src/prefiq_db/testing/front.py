"""A program of our own between clients and servers: what pgbouncer and HAProxy share."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from prefiq_db.errors import UsageError
from prefiq_db.testing.locate import ServerUnavailableError
from prefiq_db.testing.machine import LOOPBACK, free_port, make_folder, server_environment
from prefiq_db.testing.processes import Account, ChildProcess, account_for_root, wait_until

_START_SECONDS = 30.0
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")


class Front(ABC):
    """A private program in front of servers; use it as a context manager, or start and close it.

    It listens on 127.0.0.1, keeps its port over restarts, and ends with the program that started it.
    """

    _program_name: ClassVar[str]
    _accounts: ClassVar[tuple[str, ...]]
    _abort_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self) -> None:
        self._program = self._find()
        self.host = LOOPBACK
        self._port = 0
        self._owner_pid = os.getpid()
        self._folder = Path()
        self._child: ChildProcess | None = None

    def _find(self) -> str:
        path = os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS])
        program = shutil.which(self._program_name, path=path)
        if program is None:
            raise ServerUnavailableError(
                f"no {self._program_name} on PATH or in {', '.join(_FOLDERS)}. "
                f"Debian: apt-get install -y --no-install-recommends {self._program_name}"
            )
        return program

    @property
    def port(self) -> int:
        """The TCP port for clients; 0 before the first start."""
        return self._port

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._child is not None and self._child.running

    @property
    def log(self) -> str:
        """What the program wrote."""
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def start(self) -> Self:
        """Start the program and return when it listens; do nothing if it runs.

        Raises:
            ServerUnavailableError: if it ends or doesn't listen; the message has its log.
        """
        if self.running:
            return self
        child = self._spawn()
        wait_until(lambda: not child.running or self._listens(), timeout_seconds=_START_SECONDS)
        if not child.running or not self._listens():
            log = self.log
            self.close()
            raise ServerUnavailableError(f"{self._program_name} did not start:\n{log}")
        return self

    def _spawn(self) -> ChildProcess:
        if self._child is None:
            self._folder = make_folder(self._program_name)
            self._child = ChildProcess(self._folder, abort_signal=self._abort_signal)
            atexit.register(self.close)
            self._port = self._port or free_port()
            self._give(self._folder)
        self._configure()
        self._child.spawn(
            self._command(),
            log=self._folder / "log",
            account=self._account(),
            environment=server_environment(),
        )
        return self._child

    def stop(self) -> None:
        """End the program at once, with all its connections; :meth:`start` brings it back on its port."""
        self._own_child("stop").stop(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the program (``kill -9``); :meth:`start` brings it back on its port."""
        self._own_child("kill").kill()

    def freeze(self) -> None:
        """Suspend the program: connections stay open and silent."""
        self._own_child("freeze").freeze()

    def thaw(self) -> None:
        """Let a frozen program go on."""
        self._own_child("thaw").thaw()

    def close(self) -> None:
        """End the program and remove its files."""
        if os.getpid() != self._owner_pid:  # a forked child inherits the object, not the program
            return
        atexit.unregister(self.close)
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _own_child(self, verb: str) -> ChildProcess:
        if self._child is None:
            raise UsageError(f"can't {verb} {self._program_name}: it was never started, or was closed")
        return self._child

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self._port)) == 0

    def _write(self, name: str, text: str) -> None:
        """Write a file that only the program's account can read."""
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        self._give(path)

    def _give(self, path: Path) -> None:
        if account := account_for_root(*self._accounts):
            os.chown(path, account.uid, account.gid)

    def _account(self) -> Account | None:
        """Return the user that the program is started as, ``None``: ours."""
        return account_for_root(*self._accounts)

    @abstractmethod
    def _configure(self) -> None:
        """Write the program's configuration into its folder."""

    @abstractmethod
    def _command(self) -> list[str]: ...
