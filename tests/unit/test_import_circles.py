"""No module imports itself by way of others, also not for its types: each can be read after those that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import prefiq_db

PACKAGE = Path(prefiq_db.__file__).parent


def test_no_module_is_in_a_circle_of_imports() -> None:
    sources = {_module_name(path): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    assert list(circles(import_graph(sources))) == []


def test_a_circle_is_found() -> None:
    sources = {
        "p": "",
        "p.a": "def f():\n    from p import b",
        "p.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.c import C",
        "p.c": "import p.a",
        "p.d": "from p.a import f\nimport json",
    }
    assert list(circles(import_graph(sources))) == [{"p.a", "p.b", "p.c"}]


def test_a_package_is_in_a_circle_with_what_it_exports() -> None:
    sources = {"p": "from p.a import A", "p.a": "from p import B"}
    assert list(circles(import_graph(sources))) == [{"p", "p.a"}]


def test_a_module_that_imports_a_neighbour_is_in_no_circle() -> None:
    sources = {"p": "from p.a import A", "p.a": "from p import b", "p.b": ""}
    assert list(circles(import_graph(sources))) == []


def _module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which modules of *sources* each of them names in an import, wherever that stands."""
    return {name: set(_imports(source, sources)) - {name} for name, source in sources.items()}


def _imports(source: str, modules: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                # `from package import module` needs the module; the package alone is begun already.
                named = [name for name in (f"{node.module}.{alias.name}", str(node.module)) if name in modules]
                yield from named[:1]


def circles(graph: Mapping[str, set[str]]) -> Iterator[frozenset[str]]:
    """Yield each set of modules that all reach each other."""
    reached = {name: _reachable(graph, name) for name in graph}
    seen: set[str] = set()
    for name in graph:
        circle = frozenset(other for other in reached[name] if name in reached[other])
        if circle and name not in seen:
            seen |= circle
            yield circle


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found
