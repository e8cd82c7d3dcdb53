"""The migration lock of a SQLite database: a file beside it, locked by the operating system."""

from __future__ import annotations

import datetime as dt
import os
import socket
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from prefiq_db.errors import ConnectFailedError, UnsupportedError

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SUFFIX: Final = ".migrate-lock"


class FileLock:
    """An exclusive lock on ``<database file>.migrate-lock``; the system releases it however the process ends.

    The file names the lock's holder, and is removed with the lock.
    """

    def __init__(self, database_file: str) -> None:
        # Two names of one file must not make two locks.
        self.path = Path(os.path.realpath(database_file) + SUFFIX)
        self._descriptor: int | None = None

    def take(self) -> bool:
        if fcntl is None:
            raise UnsupportedError("SQLite: no file locks on this system; migrate with --no-lock (alembic: -x lock=no)")
        while True:
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            if self._is_the_file(descriptor):
                break
            # The last holder removed the file between our open and our lock, so our lock is on a deleted file.
            os.close(descriptor)
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _myself().encode())
        return True

    def release(self) -> None:
        if self._descriptor is None:
            return
        self.path.unlink(missing_ok=True)  # before the lock goes, see take()
        os.close(self._descriptor)
        self._descriptor = None

    def holder(self) -> str:
        """Return the holder, even if we never tried to take the lock."""
        if fcntl is None:
            return ""
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return ""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.read(descriptor, 200).decode(errors="replace").strip() or "a process that has not said its name"
        finally:
            os.close(descriptor)
        return ""

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
        raise ConnectFailedError(
            f"no lock file can be made beside the SQLite database ({reason}): its folder must exist and be writable"
        )

    def _is_the_file(self, descriptor: int) -> bool:
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(descriptor)
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def file_lock(connection: sa.Connection) -> FileLock | None:
    """Return the lock for the file that *connection* has open; ``None`` for an in-memory database."""
    cursor = connection.connection.cursor()  # the driver's: a statement through SQLAlchemy would begin a transaction
    try:
        cursor.execute("PRAGMA database_list")
        file = next((row[2] for row in cursor.fetchall() if row[1] == "main"), "")
    finally:
        cursor.close()
    return FileLock(file) if file and os.path.exists(file) else None


def _myself() -> str:
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"pid {os.getpid()} on {socket.gethostname()}, since {now} UTC\n"
