"""What once went wrong with the pytest plugin, in real runs of pytest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_pytest_plugin import ALL, AUTO, SUITES, Run
from tests.integration.test_pytest_plugin import run_pytest as run_pytest

pytestmark = [pytest.mark.timeout(300), pytest.mark.postgresql, pytest.mark.mariadb]


def test_the_next_test_never_sees_what_went_wrong_before(run_pytest: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((SUITES / "faults_conftest.py").read_text())
    run = run_pytest(["suite_faults.py"], *ALL, *AUTO, conftest=False)
    assert run.outcomes, run.output
    for name, outcome in run.outcomes.items():
        meant = {"error": "error", "pass": "passed", "failure": "failed"}[name.split("_")[1]]
        assert outcome == meant, f"{name}: {run.output}"
    found = re.findall(r"^  (\w+) [\w.]+: (.+)$", run.output, re.M)
    for change in [("table", "1 rows written, 0 rows gone"), ("table", "changed"), ("view", "created")]:
        assert found.count(change) == len(("sqlite", "postgresql", "mariadb")), run.output
    assert found.count(("index", "created")) >= 3, run.output
    assert "looking for it failed (AdminShutdown)" in run.output
