"""The documentation as the tests see it: pages, their code blocks, their links.

A Python block is a program: ``test_snippets.py`` runs each one alone. What its page may say about it, and should rarely
need, stands in its fence or in a comment before it::

    ```python title="shop.py"            the block is also a file of that name for the blocks below it on the page
    <!-- snippet: needs postgresql -->   it runs where that server is, with DB_URL set to an empty database
    <!-- snippet: python 3.14 -->        it runs on this Python and later ones
    <!-- snippet: excerpt: why -->       it is no program: it must only be valid Python; test_snippets.py lists these
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(?P<language>\w*)(?P<attributes>[^\n]*)\n(?P<code>.*?)^```\s*$", re.M | re.S)
_MARKER = re.compile(r"<!-- snippet: (?P<text>.+?) -->\s*\Z")
_TITLE = re.compile(r'\btitle="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        line: the number of its first line in the page.
        marker: what a comment before it says; mostly nothing.
        title: the file that it is, or nothing.
    """

    page: Path
    language: str
    code: str
    line: int
    marker: str
    title: str = ""

    @property
    def place(self) -> str:
        """Where it stands, as in the test's name."""
        return f"{page_id(self.page)}:{self.line}"

    @property
    def needs(self) -> str:
        """The server that it needs."""
        return self.marker.removeprefix("needs ") if self.marker.startswith("needs ") else ""

    @property
    def python(self) -> tuple[int, ...]:
        """The first version of Python that can run it; empty for every one."""
        return tuple(map(int, self.marker.removeprefix("python ").split("."))) if "python " in self.marker else ()

    @property
    def is_excerpt(self) -> bool:
        return self.marker.startswith("excerpt: ")


def page_id(page: Path) -> str:
    """Return a page's name in the test's name."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's code blocks."""
    text = page.read_text("utf-8")
    for match in _FENCE.finditer(text):
        before = _MARKER.search(text, 0, match.start())
        line = text.count("\n", 0, match.start("code")) + 1
        title = _TITLE.search(match["attributes"])
        marker = before["text"] if before else ""
        yield Block(page, match["language"], match["code"], line, marker, title[1] if title else "")


def prose(page: Path) -> str:
    """Return a page's text without its code blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))
