"""Temporary files in memory: on a disk, SQLite waits for it at each commit, and six times for each new database."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
#: What a run with four workers needs with all of its servers, and twice as much again.
_ROOM_BYTES = 6 * 2**30


def keep_temporary_files_in_memory() -> None:
    """Let this process and its children make their temporary files in memory.

    Nothing changes where somebody chose a folder (``TMPDIR``; the workers of a run inherit the choice), where the
    system has no file system in memory, where it has little room, or where it doesn't let programs be run from there.
    """
    if "TMPDIR" in os.environ or not _is_fit(_MEMORY):
        return
    os.environ["TMPDIR"] = str(_MEMORY)
    tempfile.tempdir = str(_MEMORY)  # pytest has asked already, and the answer is kept


def _is_fit(folder: Path) -> bool:
    if not (folder.is_mount() and os.access(folder, os.W_OK | os.X_OK)):
        return False
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize >= _ROOM_BYTES and not room.f_flag & os.ST_NOEXEC
