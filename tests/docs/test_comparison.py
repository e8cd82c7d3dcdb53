"""The comparison of the README has its evidence: each row is told in docs/comparison.md, with a test that exists."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

README = (ROOT / "README.md").read_text("utf-8")
PAGE = (ROOT / "docs" / "comparison.md").read_text("utf-8")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def _rows(text: str, head: str) -> dict[str, list[str]]:
    """Return the cells of the table whose first line begins with *head*, by the row's name."""
    table = text[text.index(head) :].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert len({len(row) for row in cells}) == 1
    return {row[0]: row[1:] for row in cells[2:]}


ROWS = _rows(README, "| | prefiq_db |")
EVIDENCE = _rows(PAGE, "| row | prefiq_db |")


def test_the_page_has_the_table_of_the_readme() -> None:
    assert _rows(PAGE, "| | prefiq_db |") == ROWS


def test_each_row_has_its_evidence() -> None:
    assert list(EVIDENCE) == [name for name in ROWS if name != "versions compared"]


@pytest.mark.parametrize("row", EVIDENCE)
def test_what_the_readme_says_of_us_is_tested(row: str) -> None:
    path, name = _TEST.fullmatch(EVIDENCE[row][0]).groups()  # type: ignore[union-attr]
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.M)


def test_every_test_that_the_page_names_is_there() -> None:
    for path, name in _TEST.findall(PAGE):
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), name


def test_the_readme_fits_three_screens() -> None:
    assert len(README.splitlines()) <= 3 * 48
