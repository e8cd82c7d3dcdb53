"""The documentation as the tests see it: pages, their code blocks, their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```\s*$", re.M | re.S)
_MARKER = re.compile(r"<!-- snippet: (?P<text>.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        line: the number of its first line in the page.
        marker: what a comment before it says, ``needs postgresql``, ``skip: reason`` or ``excerpt: reason``; mostly
            nothing.
    """

    page: Path
    language: str
    code: str
    line: int
    marker: str

    @property
    def needs(self) -> str:
        """The server that it needs."""
        return self.marker.removeprefix("needs ").strip() if self.marker.startswith("needs ") else ""

    @property
    def skipped(self) -> bool:
        return self.marker.startswith(("skip:", "excerpt:"))


def page_id(page: Path) -> str:
    """Return a page's name in the test's name."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's code blocks."""
    text = page.read_text("utf-8")
    for match in _FENCE.finditer(text):
        before = _MARKER.search(text, 0, match.start())
        line = text.count("\n", 0, match.start("code")) + 1
        yield Block(page, match["language"], match["code"], line, before["text"] if before else "")


def prose(page: Path) -> str:
    """Return a page's text without its code blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))
