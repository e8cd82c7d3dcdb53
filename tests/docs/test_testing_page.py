"""The page about tests of one's own: its files make a project, and its tests pass there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from prefiq_db.testing import DatabaseServer
from tests import interpreters
from tests.docs.pages import ROOT, blocks
from tests.plugin import plugin_arguments

PAGE = ROOT / "docs" / "how-to" / "testing.md"


def _files() -> dict[str, str]:
    return {block.title: block.code for block in blocks(PAGE) if block.title}


@pytest.mark.postgresql
@pytest.mark.timeout(300)
def test_the_files_of_the_page_are_a_project_whose_tests_pass(
    tmp_path: Path, postgresql_server: DatabaseServer
) -> None:
    for name, text in _files().items():
        (tmp_path / name).write_text(text)
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment |= {
        "PYTHONPATH": str(ROOT / "src"),
        "PREFIQ_REQUIRE": "postgresql",
        "PREFIQ_TEST_POSTGRESQL_URL": postgresql_server.url(),
    }
    arguments = ["-q", "-W", "error", "-p", "no:cacheprovider", "--prefiq-databases", "sqlite,postgresql"]
    command = [sys.executable, "-m", "pytest", *plugin_arguments(), *arguments]
    done = interpreters.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    tests = sum(text.count("def test_") for text in _files().values())
    assert f"\n{2 * tests - 1} passed" in done.stdout, done.stdout  # all but one of them on both databases


def test_every_block_of_python_is_one_of_the_files() -> None:
    python = [block for block in blocks(PAGE) if block.language == "python"]
    assert len(python) > 5
    assert all(block.title for block in python)
