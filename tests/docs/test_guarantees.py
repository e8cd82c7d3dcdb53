"""Each promise names its tests, and each test that a page names exists."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT

_PAGE = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
_PAGES = [path.read_text("utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]
_NAMED = sorted({named for page in _PAGES for named in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)})
_TABLE = re.compile(r"^\| promise \| shown by \|\n\|[-|]+\|\n((?:\|.*\n)+)", re.M)
_ROWS = sorted({row for page in _PAGES for table in _TABLE.findall(page) for row in table.splitlines()})


@pytest.mark.parametrize(("path", "name"), _NAMED, ids=lambda value: str(value).rpartition("/")[2])
def test_a_named_test_is_there(path: str, name: str) -> None:
    assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.M)


def test_promises_stand_in_such_tables_only() -> None:
    assert {line for line in _PAGE.splitlines() if line.startswith("| ")} - set(_ROWS) == {"| promise | shown by |"}
    assert not [page for page in _PAGES if re.search(r"^\| promise \|(?! shown by \|$)", page, re.M)]


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[2:40])
def test_a_promise_names_its_test(row: str) -> None:
    promise, shown = (cell.strip() for cell in row.strip("|").split("|"))
    assert promise
    assert re.fullmatch(r"`tests/[\w/]+\.py::\w+`(, `tests/[\w/]+\.py::\w+`)*", shown)
