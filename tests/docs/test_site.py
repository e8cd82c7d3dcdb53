"""The site builds without a warning, shows every page and every public name, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import prefiq_db
from tests import interpreters
from tests.docs.pages import ROOT
from tests.docs.test_docs import _LINK

DOCS = ROOT / "docs"
START = DOCS / "index.md"
_PUBLIC = (".settings", ".types", ".health", ".migrate", ".testing", ".testing.faults")
# Building it takes ten seconds of processor time, which a busy machine may give it late.
pytestmark = pytest.mark.timeout(600)
# What a reader who knows SQLAlchemy looks for first: the page where it stands is one click from the start page.
TASKS = {
    "a list parameter": "guide/queries.md#lists-in-in",
    "a transaction per request": "requests.md",
    "tenants": "how-to/tenants.md",
    "a rollback per test": "how-to/testing.md",
    "two databases": "how-to/two-databases.md",
    "a test that is undone": "how-to/testing.md",
    "an upsert": "guide/upsert.md",
    "a streamed export": "guide/stream.md",
    "the size of the pool": "pool-sizing.md",
    "an alert": "pool-sizing.md#the-dashboard-and-the-alerts",
    "an alert, step by step": "how-to/alerts.md",
    "models": "how-to/orm-models.md",
    "deploying migrations": "how-to/kubernetes-migrations.md",
    "moving a service": "how-to/from-sqlalchemy.md",
    "a lost reply to COMMIT": "guide/exactly-once.md",
    "what is set on a session": "databases/postgresql.md#what-is-set-on-each-session",
    "slow statements": "observability.md#slow-statements",
    "a time limit for one call": "limits.md#a-limit-for-one-call",
}


def build(sources: Path, site: Path) -> tuple[int, list[str]]:
    """Build the site; return the exit code and the warnings, each with the lines that belong to it."""
    done = interpreters.run(
        [sys.executable, "-m", "mkdocs", "build", "-f", sources / "mkdocs.yml", "-d", site],
        cwd=sources,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PREFIQ_SITE_SEARCH": "false"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    messages = re.split(r"^(?=[A-Z]+ +-)", done.stderr, flags=re.M)
    return done.returncode, [message for message in messages if re.match("WARNING|ERROR", message)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("site")
    assert build(ROOT, made) == (0, [])
    return made


def _pages(site: Path) -> Iterator[Path]:
    return site.rglob("*.html")


class _Loads(HTMLParser):
    """What a browser loads by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(given.get("href") or "")


def test_every_page_is_on_the_site(site: Path) -> None:
    """That each is in the navigation, MkDocs checks: a page that isn't is a warning."""
    pages = [path.relative_to(DOCS) for path in DOCS.rglob("*.md")]
    assert [page for page in pages if not (site / page.with_suffix(".html")).is_file()] == []


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in _pages(site):
        loads = _Loads()
        loads.feed(page.read_text("utf-8"))
        assert [address for address in loads.found if re.match(r"[a-z]+:|//", address) and "data:" not in address] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"""(@import|url\()\s*["']?(https?:)?//""", sheet.read_text("utf-8")), sheet


_MODULES = [importlib.import_module(f"prefiq_db{each}") for each in ("", *_PUBLIC)]


def _addresses() -> Iterator[tuple[str, set[str]]]:
    """Yield each public name, and where it may be shown: by any module that offers the same, or where it is defined."""
    for module in _MODULES:
        for name in module.__all__:
            found = getattr(module, name)
            shown = {f"{each.__name__}.{name}" for each in _MODULES if vars(each).get(name) is found}
            yield name, shown | {f"{getattr(found, '__module__', '')}.{name}"}


def test_the_api_reference_has_every_public_name(site: Path) -> None:
    shown = {
        found
        for page in (site / "api").glob("*.html")
        for found in re.findall(r'id="([\w.]+)"', page.read_text("utf-8"))
    }
    assert [name for name, addresses in _addresses() if not addresses & shown] == []
    for cls in (prefiq_db.Database, prefiq_db.AsyncDatabase, prefiq_db.Transaction, prefiq_db.AsyncTransaction):
        verbs = [name for name in ("fetch_all", "execute", "upsert", "bulk_insert") if hasattr(cls, name)]
        assert [name for name in verbs if f"prefiq_db.{cls.__name__}.{name}" not in shown] == []


@pytest.mark.parametrize("target", TASKS.values(), ids=TASKS)
def test_a_task_is_one_click_away(target: str) -> None:
    assert target in _LINK.findall(START.read_text("utf-8"))


def test_the_start_page_lists_nothing_twice() -> None:
    """As it would after a merge that keeps the lines of both sides."""
    rows = [line.strip("|").split("|") for line in START.read_text("utf-8").splitlines() if line.startswith("| ")]
    for column in (0, 1):
        named = [row[column].strip() for row in rows if row[column].strip(" -") != "page"]
        assert [each for each in named if named.count(each) > 1] == []
    pages = [_LINK.findall(row[0])[0] for row in rows if "](" in row[0]]
    assert [page for page in pages if pages.count(page) > 1] == []


def test_control_what_is_broken_is_a_warning(tmp_path: Path) -> None:
    """Built without the API reference, which costs the most."""
    for source in ("docs", "examples", "scripts", "mkdocs.yml", "README.md", "CHANGELOG.md"):
        copy: Callable[..., Any] = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / source)
    configuration = (tmp_path / "mkdocs.yml").read_text("utf-8")
    short = re.sub(r"^  - (search:.*\n|mkdocstrings:\n(    .*\n)+)", "", configuration, flags=re.M)
    (tmp_path / "mkdocs.yml").write_text(short.replace("plugins:\n", "plugins: []\n"), "utf-8")
    broken = "[a page](nowhere.md) [an anchor](usage.md#nowhere) [an example](../examples/nowhere.py)"
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{broken}\n")
    (tmp_path / "docs" / "unlisted.md").write_text("# In no navigation\n", "utf-8")
    code, warnings = build(tmp_path, tmp_path / "site")
    assert code == 1
    for reason in ("nowhere.md", "#nowhere", "nowhere.py", "unlisted.md"):
        assert any(reason in warning for warning in warnings), reason
    assert len(warnings) == 4
