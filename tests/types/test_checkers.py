"""mypy and pyright, both strict, agree with the files of this folder, and see the mistakes of a control.

An ignore in those files stands where a checker must find a mistake: one that ignores nothing is an error to both. So
a verb that became ``Any`` fails here as much as one that became narrower.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = ("tests/types/faces.py", "tests/types/queries.py")

# Each line with a comment is a mistake.
CONTROL = """\
# pyright: strict
from typing import Any, assert_type
from sqlalchemy import Row, column, Integer, select
from prefiq_db import AsyncDatabase, Database

ONE = select(column("id", Integer))

def rows(db: Database) -> None:
    assert_type(db.fetch_all(ONE), list[Row[str]])  # the type is another
    assert_type(db.fetch_all(ONE), list[Any])  # it is not Any either
    assert_type(db.fetch_value(ONE), int)  # there may be no row
    db.fetch_value(ONE, into=len)  # an int has no length
    db.fetch_all("select 1")  # type: ignore[call-overload] # no mistake to ignore

async def awaited(db: AsyncDatabase) -> None:
    assert_type(db.fetch_all(ONE), list[Row[int]])  # not awaited
"""
MISTAKES = [number for number, line in enumerate(CONTROL.splitlines(), 1) if "  #" in line]


@pytest.fixture
def control(tmp_path: Path) -> Path:
    path = tmp_path / "control.py"
    path.write_text(CONTROL)
    return path


def test_mypy_agrees(control: Path) -> None:
    found = _run("mypy", [*FILES, str(control), "--output=json"])
    problems = [json.loads(line) for line in found.splitlines() if line.startswith("{")]
    errors = [(problem["file"], problem["line"]) for problem in problems if problem["severity"] == "error"]
    assert _told(errors) == MISTAKES, found


def test_pyright_agrees(control: Path) -> None:
    found = _run("pyright", [*FILES, str(control), "--outputjson", "--pythonpath", sys.executable])
    report: dict[str, Any] = json.loads(found)
    errors = [(problem["file"], problem["range"]["start"]["line"] + 1) for problem in report["generalDiagnostics"]]
    assert report["summary"]["filesAnalyzed"] == len(FILES) + 1, found
    assert _told(errors) == MISTAKES, found


def _run(checker: str, arguments: Sequence[str]) -> str:
    if find_spec(checker) is None:
        pytest.skip(f"{checker} isn't installed: it is in the dependency group `lint`")
    # Without these, pyright may look for a newer one of itself.
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", checker, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr  # the control's mistakes, and no crash
    return done.stdout


def _told(errors: Sequence[tuple[str, int]]) -> list[int]:
    """Return the lines of the control that have errors; fail for an error elsewhere."""
    # By its name: mypy may tell the path of an earlier run, whose result it has kept.
    elsewhere = [(file, line) for file, line in errors if Path(file).name != "control.py"]
    assert elsewhere == []
    return sorted({line for _, line in errors})
