"""Every example runs, twice in a row, on every database, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import interpreters
from tests.docs.pages import ROOT

LEDGERS = ("ledger_sync.py", "ledger_async.py")
REPORT = """\
Stock
  Cup                warehouse    12
  Cup                shop          8
  Green tea, 100 g   warehouse    25
  Green tea, 100 g   shop         13
  Tea pot            warehouse     1
  Tea pot            shop          1

Orders
  Ada     2 x Green tea, 100 g       9.80
  Ada     1 x Tea pot               39.00
  Eve     4 x Cup                   30.00
  total                             78.80
"""


def environment(**variables: str) -> dict[str, str]:
    """Return the process's environment without settings of databases, and with *variables*."""
    kept = {
        name: value for name, value in os.environ.items() if not re.match(r"(DB_|DATABASE|PREFIQ_|AUDIT_|PYTHON)", name)
    }
    return {**kept, **variables}


def run(name: str, cwd: Path, **variables: str) -> str:
    """Run an example as a person would, with warnings as errors; return what it prints."""
    done = interpreters.run(
        [sys.executable, "-W", "error", ROOT / "examples" / name],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_needs_no_settings_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    first, second = run(name, tmp_path), run(name, tmp_path)
    assert first == second
    assert first.startswith("Order and stock ledger on sqlite, ")
    assert "refused     the order of Ben, all of it: fewer than 500 x CUP in stock" in first
    assert first.count("receipt is on its way") == 2
    assert REPORT in first
    assert list(tmp_path.iterdir()) == []


def test_both_worlds_tell_the_same_story(tmp_path: Path) -> None:
    sync, asynchronous = (run(name, tmp_path) for name in LEDGERS)
    assert sync.replace("on sqlite, sync", "on sqlite, async") == asynchronous


def test_a_ledger_can_be_kept_in_a_file_of_ones_own(tmp_path: Path) -> None:
    assert REPORT in run("ledger_sync.py", tmp_path, DB_URL="sqlite:///own.db")
    assert (tmp_path / "own.db").is_file()


def _on_server(server: Any, name: str, cwd: Path, leftovers: str) -> None:
    database = server.create_database()
    url = server.url(database)
    for _ in range(2):
        assert REPORT in run(name, cwd, DB_URL=url)
    assert server.execute(leftovers, database) == []


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_runs_on_postgresql_and_drops_its_tables(postgresql_server: Any, name: str, tmp_path: Path) -> None:
    _on_server(postgresql_server, name, tmp_path, "select tablename from pg_tables where schemaname = 'public'")


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_runs_on_mariadb_and_drops_its_tables(mariadb_server: Any, name: str, tmp_path: Path) -> None:
    _on_server(mariadb_server, name, tmp_path, "show tables")


def test_a_csv_file_is_imported_with_a_progress_bar(tmp_path: Path) -> None:
    assert run("import_csv.py", tmp_path).splitlines()[-1] == "50000 rows imported"


def test_the_service_provider_reads_its_settings_and_listens(tmp_path: Path) -> None:
    lines = run("service_provider.py", tmp_path, AUDIT_KEEP="2").splitlines()
    assert lines == [
        "refused: unique",
        "main: insert into customer (name) values (?) {'name': '<str:3>'}",
        "main: insert into customer (name) values (?) failed: unique",
    ]
    assert run("service_provider.py", tmp_path, AUDIT_ENABLED="no") == "refused: unique\n"
