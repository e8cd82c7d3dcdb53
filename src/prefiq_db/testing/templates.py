"""The data of new private servers: made once in a process by the server's own program, then copied.

``initdb`` and ``mariadb-install-db`` take most of the time in which a server starts. Copies share what they wrote: the
password of PostgreSQL's administrator, which is one per process therefore, and the cluster's identifier.
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from prefiq_db.forks import renewed
from prefiq_db.testing.machine import make_folder
from prefiq_db.testing.processes import ChildProcess

#: of the administrator of each private server of this process
PASSWORD: Final = secrets.token_hex(12)

_made: dict[tuple[int, Path], Path] = {}
_turn = renewed(sys.modules[__name__], "_turn")


def fill(data: Path, program: Path, make: Callable[[], None]) -> None:
    """Fill the empty folder *data*: by *make*, which runs *program*, or with a copy of what it made before."""
    key = (os.getpid(), program)  # a forked child removes nothing of its parent's, and can't rely on it
    with _turn:
        template = _made.get(key)
        if template is None or not template.is_dir():
            make()
            _made[key] = _keep(data)
            return
    _copy(template, data)


def _keep(data: Path) -> Path:
    folder = make_folder("template")
    # Nothing runs in it, but its watchdog removes the folder when this program ends, however that is.
    atexit.register(ChildProcess(folder, abort_signal=signal.SIGKILL).close)
    template = folder / "data"
    template.mkdir(mode=0o700)
    _copy(data, template)
    return template


def _copy(source: Path, target: Path) -> None:
    # With the owners, which Python's copytree() doesn't keep.
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True, capture_output=True)
