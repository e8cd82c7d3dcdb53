"""docs/architecture.md is true: its list of rooms, the way of a statement, and every file that it names."""

from __future__ import annotations

import difflib
import gc
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import prefiq_db
from prefiq_db import Database

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(prefiq_db.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
ROOMS, WAY = re.findall(r"^```text\n(.*?)^```$", PAGE, re.M | re.S)[:2]


def test_the_page_fits_two_screens() -> None:
    assert len(PAGE.splitlines()) <= 120


def test_every_room_is_in_the_list_once_in_the_order_of_the_contract() -> None:
    listed = [name for line in ROOMS.splitlines() for name in _first_column(line).split(" · ")]
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    # Within a layer the order is the page's own.
    layers = [sorted(name.strip() for name in layer.split("|")) for layer in contract["layers"]]
    drawn = [sorted(_first_column(line).split(" · ")) for line in ROOMS.splitlines()]
    difference = "\n".join(
        difflib.unified_diff(_lines(drawn), _lines(layers), "the page", "pyproject.toml", lineterm="")
    )
    assert not difference, difference
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(listed) == sorted(there - {"__init__"})


def test_a_statement_goes_the_way_that_the_page_tells() -> None:
    """The files of a warmed-up ``db.fetch_one`` on SQLite, as they are first entered, with one function of each."""
    visited: dict[str, list[str]] = {}

    def note(frame: FrameType, event: str, arg: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents:
            visited.setdefault(path.relative_to(PACKAGE).as_posix(), []).append(frame.f_code.co_name)

    with Database("sqlite:///:memory:") as db:
        for _ in range(10):
            db.fetch_one("select :number as number", {"number": 1})
        gc.collect()
        gc.disable()  # what it collects would be on the way, too
        try:
            sys.setprofile(note)
            db.fetch_one("select :number as number", {"number": 1})
        finally:
            sys.setprofile(None)
            gc.enable()
    told = {file: function for file, function, *_ in _told_way()}
    true = [f"{file} {_named(told.get(file), functions)}" for file, functions in visited.items()]
    page = [f"{file} {function}" for file, function, *_ in _told_way()]
    difference = _difference(page, true, "the code")
    assert not difference, difference


def test_every_file_that_the_page_names_is_there() -> None:
    pages = PAGE + "".join((ROOT / "docs" / name).read_text("utf-8") for name in ("roads.md", "translation.md"))
    named = re.findall(r"`([\w/*]+\.(?:py|md|toml|txt))`", pages)
    missing = [name for name in named if not any(PACKAGE.rglob(name)) and not (ROOT / name).exists()]
    assert missing == []


def _first_column(line: str) -> str:
    return re.split(r"\s{2,}", line.strip())[0]


def _lines(layers: list[list[str]]) -> list[str]:
    return [" · ".join(layer) for layer in layers]


def _told_way() -> Iterator[list[str]]:
    for line in WAY.splitlines():
        yield re.split(r"\s+", line.strip(), maxsplit=2)


def _named(told: str | None, functions: list[str]) -> str:
    """Return what the page tells of a file if that is entered there, or else what is entered first."""
    return told if told in functions else functions[0]


def _difference(page: list[str], true: list[str], source: str) -> str:
    return "\n".join(difflib.unified_diff(page, true, "the page", source, lineterm="", n=1))
