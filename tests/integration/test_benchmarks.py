"""The benchmark runs from end to end. What it measures is never asserted: the machine may be busy."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import workload
from benchmarks.contenders import AGAIN, OURS, PLAIN, RAW
from benchmarks.report import Report

from tests import interpreters

ROOT = Path(__file__).parents[2]
_NEEDS = {"Django cursor": "django", "advanced-alchemy": "advanced_alchemy", "databases": "databases"}


def test_a_quick_look_at_sqlite_measures_everything_and_draws_it(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    words = ["-m", "benchmarks", "sqlite", "--quick", "--json", str(out), "--svg", str(tmp_path / "chart.svg")]
    done = interpreters.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = Report.load_from(out)
    measured = {(each.world, each.operation, each.contender) for each in report.results}
    for world, own in (("sync", workload.THREADS), ("async", workload.TASKS)):
        both = {workload.POINT, workload.INSERT, workload.TRANSACTION, workload.MANY_ROWS, own}
        assert {(world, operation, name) for operation in both for name in (RAW, PLAIN, AGAIN, OURS)} <= measured
        assert {(world, workload.SELECT, name) for name in (PLAIN, AGAIN, OURS)} <= measured
    # Those that can't be imported here are named, and nobody else is missing.
    missing = {name for name, module in _NEEDS.items() if find_spec(module) is None}
    assert report.comparisons[0].not_measured.keys() == missing
    assert all(f"not measured: {name} (" in done.stdout for name in missing)
    assert "point select, sqlite sync | SQLAlchemy | <= x0.2 | x" in done.stdout
    ElementTree.parse(tmp_path / "chart.svg")


def test_a_saved_run_can_be_reported_again(tmp_path: Path) -> None:
    """The tables of the documentation are made from the file that a run has written."""
    out = tmp_path / "found.json"
    quick = ["-m", "benchmarks", "sqlite", "--quick", "--only", workload.POINT]
    interpreters.run([sys.executable, *quick, "--json", str(out)], cwd=ROOT, check=True, capture_output=True)
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- benchmarks: targets -->\nold\n<!-- end -->\nBehind.\n")
    again = [sys.executable, "-m", "benchmarks", "--from", str(out), "--docs", str(page)]
    said = interpreters.run(again, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "sqlite, sync, loopback" in said
    text = page.read_text()
    assert text.startswith("Before.\n<!-- benchmarks: targets -->\n\n| target |")
    assert "| point select, postgresql sync | SQLAlchemy | <= x0.25 | not measured | |" in text
    assert text.endswith("\n<!-- end -->\nBehind.\n")
    assert "old" not in text


def test_an_unknown_database_is_refused() -> None:
    done = interpreters.run([sys.executable, "-m", "benchmarks", "oracle"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "unknown: oracle; there are sqlite, postgresql, mariadb" in done.stderr
