"""The documentation is complete, and its links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import prefiq_db
from prefiq_db import ErrorKind
from tests.docs.pages import PAGES, ROOT, blocks, page_id, prose

_FOLDERS = ("benchmarks", "examples", "migrations", "src", "tests")
_FILES = [path.as_posix() for folder in _FOLDERS for path in (ROOT / folder).rglob("*.py")]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _everything() -> str:
    return "\n".join(page.read_text("utf-8") for page in PAGES)


@pytest.mark.parametrize("name", prefiq_db.__all__)
def test_every_public_name_is_told(name: str) -> None:
    assert re.search(rf"\b{name}\b", _everything())


def test_every_kind_of_error_has_its_entry() -> None:
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert [kind.name for kind in ErrorKind if not re.search(rf"\b({kind.name}|{kind.value})\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = [link for link in _LINK.findall(prose(page)) if not _resolves(page, link)]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_python_files_that_a_page_names_exist(page: Path) -> None:
    """With or without the folders that they are in; or the page shows what is in them."""
    named = re.findall(r"(?<![\w./-])([\w-]+(?:/[\w-]+)*\.py)\b(?!\.)", page.read_text("utf-8"))
    files = [*_FILES, *(block.title for block in blocks(page) if block.title)]
    assert [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in files)] == []


def _resolves(page: Path, link: str) -> bool:
    if link.startswith("https://"):
        return True
    path, _, anchor = link.partition("#")
    target = (page.parent / path) if path else page
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_architecture_draws_the_layers_of_the_import_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    # In parentheses: layers that are planned and don't exist yet.
    contract = [{name.strip() for name in layer.split("|") if not name.strip().startswith("(")} for layer in layers]
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    drawn = page.split("```text\n")[1].split("```")[0].splitlines()
    assert [set(re.split(r"\s{3,}", line.strip())[0].split(" · ")) for line in drawn] == contract
