"""Each decision asks, answers and says what would change it, and ``docs/decisions/index.md`` lists them all.

After a new decision: ``python -m tests.docs.test_decisions --write``. It makes the list, and takes decisions that were
listed in ``docs/index.md`` out of there.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

FOLDER = ROOT / "docs" / "decisions"
INDEX = FOLDER / "index.md"
START = ROOT / "docs" / "index.md"
DECISIONS = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
HOW = "python -m tests.docs.test_decisions --write"
HEAD = """\
# Decisions

Each page answers one question that somebody could ask about this library: why it is so, what we turned down, and what
would change our mind. The numbers have gaps.

"""
_LISTED = re.compile(r"^(- \[.+\]\(decisions/\d{4}-.+\.md\)\n|## Decisions\n\n?)", re.M)


def written() -> str:
    """Return the list as it should be."""
    return HEAD + "".join(f"- {page.name[:4]}: [{_question(page)}]({page.name})\n" for page in DECISIONS)


def _question(page: Path) -> str:
    return page.read_text("utf-8").splitlines()[0].removeprefix("# ")


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_asks_answers_and_says_what_would_change_it(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    assert re.fullmatch(r"# (Why|Who|When|What|How) .+\?", lines[0])
    assert lines[2], "the answer follows the question"
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## Why", "## What we turned down", "## What would change our mind"]
    assert 20 <= len(lines) <= 40


def test_every_decision_is_listed_and_has_a_number_of_its_own() -> None:
    """Gaps are allowed: each area of the work numbers its decisions in tens of its own."""
    numbers = [page.name[:4] for page in DECISIONS]
    assert len(numbers) == len(set(numbers))
    assert INDEX.read_text("utf-8") == written(), f"run {HOW}"
    assert not _LISTED.search(START.read_text("utf-8")), f"decisions are listed in docs/decisions/index.md: run {HOW}"


def test_a_decision_that_the_source_names_is_there() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "pyproject.toml"]
    named = {name for file in files for name in re.findall(r"decisions/(\d{4}[\w-]*\.md)", file.read_text("utf-8"))}
    assert named <= {page.name for page in DECISIONS}


if __name__ == "__main__" and "--write" in sys.argv:
    INDEX.write_text(written(), "utf-8")
    START.write_text(_LISTED.sub("", START.read_text("utf-8")), "utf-8")
