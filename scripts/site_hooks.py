"""What MkDocs can't do by itself for our site; ``mkdocs.yml`` names this file as a hook.

- An entry of the navigation that ends in ``*.md`` stands for the pages that it matches and no entry before it names.
- The pages link to files outside of ``docs/`` (``../examples/ledger.py``, ``../CHANGELOG.md``), as a reader of the
  repository needs it. On the site each of those files is a page of its own, and the links lead there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Where a file of the repository stands on the site; every other one below source/.
PLACES = {"CHANGELOG.md": "changelog.md", "README.md": "index.md"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".ini": "ini", ".json": "json"}

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.M | re.S)
_LINK = re.compile(r"(?P<before>\[[^\]]*\]\()(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


# --- the navigation ------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Write the patterns of the navigation out."""
    named = set(_paths(config.nav))
    config.nav = _expand(config.nav, named)
    return config


def _paths(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif entry:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from _paths(each)


def _expand(entries: Any, named: set[str]) -> list[Any]:
    made: list[Any] = []
    for entry in entries:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            made.append({title: _expand(value, named)})
        elif value.endswith("*.md"):
            pages = [path.relative_to(DOCS).as_posix() for path in sorted(DOCS.glob(value))]
            made += [{title: page} if title else page for page in pages if page not in named]
            named.update(pages)
        else:
            made.append(entry)
    return made


# --- files outside of docs/ ----------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside of ``docs/`` that a page links to, and for those that they link to."""
    waiting = ["CHANGELOG.md"]
    for file in files.documentation_pages():
        waiting += _outside(f"docs/{file.src_uri}", file.content_string)
    while waiting:
        path = waiting.pop()
        place = _place(path)
        if place in files.src_uris or not (ROOT / path).is_file():  # what is missing MkDocs reports as a broken link
            continue
        content = _as_page(path)
        inclusion = InclusionLevel.INCLUDED if path in PLACES else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, place, content=content, inclusion=inclusion))
        waiting += _outside(path, content)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to where the files stand on the site."""
    origin = next((path for path in _origins(page.file.src_uri)), f"docs/{page.file.src_uri}")
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    def lead(found: re.Match[str]) -> str:
        target = _target(origin, found["path"])
        if target is None:
            return found[0]
        path = relpath(_place(target), PurePosixPath(page.file.src_uri).parent.as_posix())
        return f"{found['before']}{path}{found['anchor'] or ''})"

    text = _LINK.sub(lead, _FENCE.sub(keep, markdown))
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], text)


def _origins(uri: str) -> Iterator[str]:
    """Yield the path in the repository of a page that was made of a file outside of ``docs/``."""
    yield from (path for path, place in PLACES.items() if place == uri and path != "README.md")
    if uri.startswith("source/"):
        yield uri.removeprefix("source/").removesuffix(".md") if not uri.endswith("README.md") else uri[7:]


def _place(path: str) -> str:
    """Return where a file of the repository stands on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in PLACES:
        return PLACES[path]
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def _target(origin: str, link: str) -> str | None:
    """Return the file of the repository that *link* on the page *origin* means, if its address differs on the site."""
    if re.match(r"[a-z]+:", link) or link.startswith("/"):
        return None
    target = normpath((PurePosixPath(origin).parent / link).as_posix())
    if origin.startswith("docs/") and target.startswith("docs/"):
        return None
    return target


def _outside(origin: str, text: str) -> list[str]:
    found = (_target(origin, match["path"]) for match in _LINK.finditer(_FENCE.sub("", text)))
    return [target for target in found if target is not None and not target.startswith("docs/")]


def _as_page(path: str) -> str:
    text = (ROOT / path).read_text("utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    return f"# {path}\n\n````{language}\n{text}````\n"
