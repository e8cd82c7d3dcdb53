"""The report says of each target what was measured, and whether that is enough; the chart shows the same."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks import chart, report
from benchmarks import workload as w
from benchmarks.comparing import LOOPBACK, Comparison, Result
from benchmarks.contenders import AGAIN, LISTENER, OURS, PLAIN, RAW
from benchmarks.measuring import Spread, ratio, take_turns


def _report(times_of_plain: float, operation: str = w.POINT, world: str = "sync") -> report.Report:
    found = report.Report("2026-11-29", 3, 2, "asyncio", {"Python": "3.11.7", "SQLAlchemy": "2.1.9"}, (0.5, 1.5))
    itself, mine = (Spread(x, x * 0.9, x * 1.1) for x in (1.02, times_of_plain))
    results = [
        Result("sqlite", world, LOOPBACK, operation, PLAIN, Spread(1e-4, 1e-4, 1e-4), {}),
        Result("sqlite", world, LOOPBACK, operation, AGAIN, Spread(1e-4, 1e-4, 1e-4), {PLAIN: itself}),
        Result("sqlite", world, LOOPBACK, operation, OURS, Spread(2e-5, 2e-5, 2e-5), {PLAIN: mine}),
    ]
    found.add(Comparison("sqlite", "3.40.1", results, {"Django cursor": "django can't be imported"}))
    return found


@pytest.mark.parametrize(
    ("measured", "verdict"), [(0.19, "met"), (0.20, "met"), (0.22, "missed, within the noise"), (0.24, "missed")]
)
def test_a_target_is_met_or_missed(measured: float, verdict: str) -> None:
    rows = {row[0]: row[1:] for row in report.target_rows(_report(measured))}
    assert rows["point select, sqlite sync"][1] == "<= x0.2"
    assert rows["point select, sqlite sync"][2].startswith(f"x{measured:.2f} (")
    assert rows["point select, sqlite sync"][3] == verdict
    assert rows["point select, mariadb sync"][2:] == ["not measured", ""]


def test_a_rate_is_told_as_one() -> None:
    rows = {row[0]: row[1:] for row in report.target_rows(_report(0.2, w.TASKS, "async"))}
    assert rows["64 tasks over 10, sqlite async"][:3] == [PLAIN, ">= 4 times", "5.00 times (5.56 times to 4.55 times)"]
    assert rows["64 tasks over 10, sqlite async"][3] == "met"


def test_instructions_have_targets_too() -> None:
    found = _report(0.3)
    found.instructions = {
        "sqlite sync point select": {OURS: 61_000},
        "sqlite sync listened-to point select": {LISTENER: 68_000},
        "mariadb sync point select": {RAW: 324_000, OURS: 370_000},
    }
    rows = {row[0]: row[1:] for row in report.instruction_target_rows(found)}
    assert rows["sqlite sync point select"] == ["", "60", "61", "missed"]
    assert rows["sqlite sync listened-to point select"] == ["more than sqlite sync point select", "8", "7", "met"]
    assert rows["mariadb sync point select"] == ["more than raw driver", "45", "46", "missed"]
    assert rows["sqlite async point select"][2:] == ["not counted", ""]


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    found = _report(0.3)
    found.save(tmp_path / "found.json")
    again = report.Report.load_from(tmp_path / "found.json")
    again.save(tmp_path / "again.json")
    assert report.Report.load_from(tmp_path / "again.json") == again
    assert list(report.target_rows(again)) == list(report.target_rows(found))
    assert again.results[2].of_others == {PLAIN: Spread(0.3, 0.27, 0.33)}


def test_who_was_not_measured_is_named_and_the_noise_is_shown() -> None:
    text = "\n".join(report.lines(_report(0.3)))
    assert "not measured: Django cursor (django can't be imported)" in text
    assert "x 1.02 of SQLAlchemy [0.92 to 1.12]  the noise" in text


def test_a_long_bar_is_cut_off_and_says_so() -> None:
    drawn = chart.draw(_report(7.5))
    widths = [float(each.attrib["width"]) for each in ElementTree.fromstring(drawn).iter() if each.tag.endswith("rect")]
    assert "7.50, cut off" in drawn
    assert max(widths) <= float(ElementTree.fromstring(drawn).attrib["width"])


def test_every_contender_has_its_turn_in_each_round_and_is_compared_within_it() -> None:
    order: list[str] = []
    numbers = iter(range(1, 100))

    def turn(name: str) -> float:
        order.append(name)
        return next(numbers)

    found = take_turns({name: lambda name=name: turn(name) for name in ("a", "b", "c")}, 4, warm_up=1)  # type: ignore[misc]
    assert [sorted(order[at : at + 3]) for at in range(0, 15, 3)] == [["a", "b", "c"]] * 5
    assert all(len(each) == 4 for each in found.values())
    assert ratio({"a": [1.0, 9.0, 2.0], "b": [2.0, 3.0, 4.0]}, "a", "b").median == 0.5
