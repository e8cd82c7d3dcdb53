"""The list of what differs from SQLAlchemy's own dialects: no test twice, and each reason is told to users."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.sqlalchemy_suite.differences import DIFFERENCES

_PAGE = Path(__file__).parents[2] / "docs" / "guide" / "sqlalchemy-differences.md"


def test_no_test_is_listed_twice() -> None:
    listed = Counter(
        (database, world, test)
        for each in DIFFERENCES
        for database in each.databases
        for world in each.worlds
        for test in each.tests
    )
    assert [name for name, count in listed.items() if count > 1] == []


def test_the_documentation_tells_of_each_difference_and_of_no_other() -> None:
    page = _PAGE.read_text(encoding="utf-8")
    told = re.findall(r"^- \*\*(.+?)\.\*\* (.+?)(?=\n- |\n\n|\Z)", page, re.M | re.S)
    assert {title for title, _ in told} == {each.title for each in DIFFERENCES}
    for title, text in told:
        for each in DIFFERENCES:
            if each.title == title:
                assert " ".join(each.why.split()) in " ".join(text.split())
