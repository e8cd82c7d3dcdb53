"""The pytest plugin, in real runs of pytest: on three databases, in both worlds, beside the other plugins.

The suites are in ``plugin_suites``. Few runs with many tests each: starting one costs more than a test.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefiq_db.testing import DatabaseServer
from tests import interpreters
from tests.plugin import plugin_arguments

ROOT = Path(__file__).parents[2]
SUITES = Path(__file__).parent / "plugin_suites"
CANARY = "canary-7f3a"
# A run takes less than a minute, and longer where others need the processor, too.
pytestmark = pytest.mark.timeout(300)
ALL = ("--prefiq-databases", "sqlite,postgresql,mariadb")

INI = """
[pytest]
addopts = -p no:cacheprovider --strict-markers -rA --timeout=100
filterwarnings = error
"""
BESIDE_ASYNCIO = ("-o", "asyncio_default_fixture_loop_scope=function", "-o")
STRICT = (*BESIDE_ASYNCIO, "asyncio_mode=strict")
AUTO = (*BESIDE_ASYNCIO, "asyncio_mode=auto")


@dataclass(frozen=True)
class Run:
    """One run of pytest.

    Attributes:
        outcomes: ``passed``, ``failed`` or ``error`` of each test by its name, with its parameter; the worst one.
        left: by worker and database, how many rows each table has behind the last test.
    """

    outcomes: Mapping[str, str]
    output: str
    left: Mapping[str, Mapping[str, Mapping[str, int]]]


@pytest.fixture
def run_pytest(tmp_path: Path, postgresql_server: DatabaseServer, mariadb_server: DatabaseServer) -> Callable[..., Run]:
    """Return a function that runs a suite: ``run(["suite_sync.py"], "-n", "2")``."""

    def run(
        suites: list[str],
        *arguments: str,
        mark: str = "asyncio",
        ini: str = "",
        conftest: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        (tmp_path / "pytest.ini").write_text(INI + ini)
        if conftest:
            (tmp_path / "conftest.py").write_text((SUITES / "suite_conftest.py").read_text())
        for suite in suites:
            text = (SUITES / suite).read_text().replace("pytest.mark.anyio", f"pytest.mark.{mark}")
            (tmp_path / suite.replace("suite_", "test_")).write_text(text)
        (tmp_path / "left").mkdir()
        names = ("PATH", "HOME", "LANG", "TMPDIR", "PG_BIN", "MARIADB_BIN")
        given = {name: os.environ[name] for name in names if name in os.environ}
        given |= {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "examples")]),
            "SUITE_LEFT": str(tmp_path / "left"),
            "PREFIQ_REQUIRE": "postgresql,mariadb",
            "PREFIQ_TEST_POSTGRESQL_URL": postgresql_server.url(),
            "PREFIQ_TEST_MARIADB_URL": mariadb_server.url(),
            **(environment or {}),
        }
        done = interpreters.run(
            [sys.executable, "-m", "pytest", *plugin_arguments(), *arguments],
            cwd=tmp_path,
            env=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        left = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "left").iterdir()}
        return Run(_outcomes(done.stdout), done.stdout + done.stderr, left)

    return run


def _outcomes(output: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) \S+?::(\S+)", output, re.M):
        if found.get(name) in (None, "passed"):
            found[name] = outcome.lower()
    return found


def _databases(server: DatabaseServer) -> set[str]:
    sql = {"postgresql": "select datname from pg_database", "mariadb": "show databases"}[server.name]
    return {name for (name,) in server.execute(sql)}


#: What the migrations of the suites leave, and so each worker must, too.
SEEDED = {"item": 1, "part": 0, "prefiq_alembic_version": 1, "prefiq_commit_token": 0}


@pytest.mark.postgresql
@pytest.mark.mariadb
def test_a_suite_that_uses_every_verb_leaves_nothing_behind(
    run_pytest: Callable[..., Run], postgresql_server: DatabaseServer, mariadb_server: DatabaseServer
) -> None:
    before = _databases(postgresql_server), _databases(mariadb_server)
    run = run_pytest(["suite_sync.py", "suite_async.py"], *ALL, *STRICT, "-n", "2")
    assert set(run.outcomes.values()) == {"passed"}, run.output
    for name in ("test_statements", "test_batch", "test_transactions_are_outermost"):
        assert {f"{name}[{kind}]" for kind in SEEDS} <= run.outcomes.keys()
    assert sorted(run.left) == ["gw0", "gw1"]
    for worker in run.left.values():
        assert worker
        assert all(left == SEEDED for left in worker.values()), run.left
    assert (_databases(postgresql_server), _databases(mariadb_server)) == before


SEEDS = ("sqlite", "postgresql", "mariadb")


@pytest.mark.postgresql
def test_it_works_with_anyios_plugin(run_pytest: Callable[..., Run]) -> None:
    run = run_pytest(["suite_async.py"], "--prefiq-databases", "sqlite,postgresql", "-p", "no:asyncio", mark="anyio")
    assert set(run.outcomes.values()) == {"passed"}, run.output
    assert run.left["gw"]["postgresql"] == SEEDED


@pytest.mark.postgresql
@pytest.mark.mariadb
def test_what_goes_past_the_fixture_is_found_and_named(run_pytest: Callable[..., Run]) -> None:
    run = run_pytest(["suite_controls.py"], *ALL, *AUTO)
    assert len(run.outcomes) > 40, run.output
    for name, outcome in run.outcomes.items():
        meant = {"error": "error", "pass": "passed", "failure": "failed"}[name.split("_")[1]]
        assert outcome == meant, f"{name}: {run.output}"
    for kind in SEEDS:
        past = _section(run.output, f"ERROR at teardown of test_error_another_connection[{kind}]")
        assert "table item: 1 rows written, 0 rows gone" in past
        assert "db_committed" in past
        changed = _section(run.output, f"ERROR at teardown of test_error_another_process[{kind}]")
        assert "table item: 1 rows written, 1 rows gone" in changed
        deleted = _section(run.output, f"ERROR at teardown of test_error_the_drivers_own_commit[{kind}]")
        assert "table item: 0 rows written, 1 rows gone" in deleted
        leaked = _section(run.output, f"ERROR at teardown of test_error_a_connection_is_leaked[{kind}]")
        assert "in test_error_a_connection_is_leaked" in leaked
        failed = _section(run.output, f"test_failure_shows_statements[{kind}]")
        assert "insert into item values" in failed
        assert "sku=<str:11>" in failed
    assert CANARY not in run.output
    assert all(worker == SEEDED for worker in run.left["gw"].values()), run.left


def _section(output: str, title: str) -> str:
    """Return what the report says under *title*."""
    found = re.search(rf"^_+ {re.escape(title)} _+$(.*?)^(?:_+ \S.* _+|=+ .* =+)$", output, re.M | re.S)
    assert found is not None, f"{title} in {output}"
    return found[1]


@pytest.mark.postgresql
@pytest.mark.mariadb
def test_the_examples_are_tested_with_it(run_pytest: Callable[..., Run]) -> None:
    ini = f"prefiq_alembic = {ROOT / 'examples' / 'shop' / 'alembic.ini'}\n"
    run = run_pytest(["suite_examples.py"], *ALL, *AUTO, ini=ini, conftest=False)
    assert set(run.outcomes.values()) == {"passed"}, run.output
    assert len(run.outcomes) == 20, run.output


_UNUSED = """
import sys

def test_it_does_not_use_the_plugin():
    assert not {"prefiq_db", "sqlalchemy", "alembic"} & sys.modules.keys()
"""


def test_a_run_that_does_not_use_it_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_unused.py").write_text(_UNUSED)
    command = [sys.executable, "-m", "pytest", *plugin_arguments(), "-q", "-p", "no:cacheprovider", "."]
    command += ["-p", "no:asyncio", "-p", "no:anyio", "-p", "no:pytest_alembic", "-p", "no:hypothesispytest"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_pyproject_names_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["entry-points"]["pytest11"] == {"prefiq_db": "prefiq_db_pytest"}
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert shipped["src/prefiq_db_pytest.py"] == "prefiq_db_pytest.py"
    assert importlib.util.find_spec("prefiq_db_pytest") is not None
