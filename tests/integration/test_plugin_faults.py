"""What once went wrong with the pytest plugin, in real runs of pytest."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from prefiq_db.testing import DatabaseServer
from tests.integration.test_pytest_plugin import ALL, AUTO, SUITES, Run
from tests.integration.test_pytest_plugin import run_pytest as run_pytest

pytestmark = [pytest.mark.timeout(300), pytest.mark.postgresql, pytest.mark.mariadb]


def test_the_next_test_never_sees_what_went_wrong_before(run_pytest: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((SUITES / "faults_conftest.py").read_text())
    run = run_pytest(["suite_faults.py"], *ALL, *AUTO, conftest=False)
    assert run.outcomes, run.output
    for name, outcome in run.outcomes.items():
        meant = {"error": ["error"], "pass": ["passed"], "failure": ["failed"], "either": ["passed", "error"]}
        assert outcome in meant[name.rsplit("test_", 1)[1].split("_")[0]], f"{name}: {run.output}"
    found = re.findall(r"^  (\w+) [\w.]+: (.+)$", run.output, re.M)
    for change in [("table", "1 rows written, 0 rows gone"), ("table", "changed"), ("view", "created")]:
        assert found.count(change) >= len(("sqlite", "postgresql", "mariadb")), run.output
    assert found.count(("index", "created")) >= 3, run.output
    assert "looking for it failed (AdminShutdown)" in run.output
    assert run.output.count("this test would run on sqlite, because pytest doesn't parametrize") >= 2, run.output


_TESTS = """
def test_rolled_back(db):
    db.execute("insert into item values ('a', 1)")

def test_committed(db_committed):
    db_committed.execute("insert into item values ('a', 1)")
"""


def test_migrations_may_leave_their_engine_open(run_pytest: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((SUITES / "open_conftest.py").read_text())
    (tmp_path / "test_open.py").write_text(_TESTS)
    run = run_pytest([], "--prefiq-databases", "postgresql", *AUTO, conftest=False)
    assert run.outcomes == {"test_rolled_back": "passed", "test_committed": "passed"}, run.output


def test_a_server_that_cannot_be_used_is_named(
    run_pytest: Callable[..., Run], tmp_path: Path, postgresql_server: DatabaseServer, mariadb_server: DatabaseServer
) -> None:
    poor = f"suite_{secrets.token_hex(4)}"
    postgresql_server.execute(f"create role {poor} login password '{poor}'")
    (tmp_path / "test_poor.py").write_text(_TESTS.replace("item", "prefiq_commit_token"))
    found = urlsplit(postgresql_server.url())
    urls = {
        "PREFIQ_TEST_POSTGRESQL_URL": found._replace(netloc=f"{poor}:{poor}@{found.hostname}:{found.port}").geturl(),
        "PREFIQ_TEST_MARIADB_URL": "mariadb://nobody:canary-7f3a@127.0.0.1:9/mysql",
    }
    try:
        run = run_pytest([], "--prefiq-databases", "postgresql,mariadb", *AUTO, conftest=False, environment=urls)
    finally:
        postgresql_server.execute(f"drop role {poor}")
    assert set(run.outcomes.values()) == {"error"}, run.output
    assert "PREFIQ_TEST_POSTGRESQL_URL: the tests can't create databases there" in run.output
    assert "PREFIQ_TEST_MARIADB_URL: the tests can't connect there" in run.output
    assert "canary-7f3a" not in run.output
