"""``init``: write the files of a service's own history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prefiq_db.errors import UsageError

_TEMPLATES = Path(__file__).parent / "templates"


def write_history(directory: Path, ini: Path) -> Iterator[str]:
    """Write ``env.py``, ``script.py.mako`` and ``versions/`` into *directory*, and *ini*; yield what was done.

    An existing *ini* is kept.

    Raises:
        UsageError: the directory is there already, and not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory}: expected a directory that is not there yet, or is empty")
    (directory / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako"):
        (directory / name).write_text(_template(name), "utf-8")
        yield f"wrote {directory / name}"
    if ini.exists():
        yield f"kept {ini}: see that its script_location is {directory}"
        return
    # In an ini file, configparser interpolates a %.
    there = Path(os.path.relpath(directory, ini.parent)).as_posix().replace("%", "%%")
    ini.write_text(_template("alembic.ini").replace("@DIRECTORY@", there), "utf-8")
    yield f"wrote {ini}"


def _template(name: str) -> str:
    return (_TEMPLATES / f"{name}.txt").read_text("utf-8")
