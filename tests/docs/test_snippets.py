"""Every snippet of the documentation runs, and every command in it exists.

The Python blocks of a page share one namespace, in order, in an empty working directory; ``await`` works at the top
level. A comment before a block changes that, and should be rare::

    <!-- snippet: needs postgresql -->   the block runs only where that server is, with DB_URL set to it
    <!-- snippet: skip: why -->          the block isn't run
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import os
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database
from prefiq_db.providers import default_registry
from tests.docs.pages import PAGES, ROOT, Block, blocks, page_id, prose

_SERVERS = ("postgresql", "mariadb", "mongodb")


def _cases() -> Iterator[Any]:
    for page in PAGES:
        python = [block for block in blocks(page) if block.language == "python"]
        if python:
            yield pytest.param(page, None, id=page_id(page))
        for server in _SERVERS:
            if any(block.needs == server for block in python):
                marks = [getattr(pytest.mark, server), pytest.mark.integration]
                yield pytest.param(page, server, id=f"{page_id(page)}-{server}", marks=marks)


@pytest.fixture
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory, no settings in the environment, and the providers as they were."""
    for name in os.environ:
        if re.match(r"DB_|DATABASE|PREFIQ_", name):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    registered = dict(default_registry._classes)
    yield
    default_registry._classes.clear()
    default_registry._classes.update(registered)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("page", "server"), list(_cases()))
def test_the_snippets_of_a_page_run(
    page: Path, server: str | None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType(f"snippets_of_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses and pydantic look there for names
    url = _url(server, request) if server else ""
    with asyncio.Runner() as runner:
        for block in blocks(page):
            if block.language != "python" or block.skipped or block.needs not in ("", server):
                continue
            with monkeypatch.context() as patched:
                if block.needs:
                    patched.setenv("DB_URL", url)
                try:
                    _run(block, module.__dict__, runner)
                except BaseException:
                    _close_all(module.__dict__, runner)  # or what is left open would hide the failure
                    raise


def _close_all(namespace: dict[str, Any], runner: asyncio.Runner) -> None:
    for value in namespace.values():
        if isinstance(value, AsyncDatabase):
            runner.run(value.close())
        elif isinstance(value, Database):
            value.close()


def _url(server: str, request: pytest.FixtureRequest) -> str:
    running = request.getfixturevalue(f"{server}_server")
    return str(running.url(running.create_database()))


def _run(block: Block, namespace: dict[str, Any], runner: asyncio.Runner) -> None:
    # Empty lines before it, so that a traceback names the line of the page.
    source = "\n" * (block.line - 1) + block.code
    code = compile(source, str(block.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(_awaited(code, namespace))
    else:
        exec(code, namespace)


async def _awaited(code: types.CodeType, namespace: dict[str, Any]) -> None:
    await eval(code, namespace)


def test_a_marker_is_understood_and_a_skip_has_a_reason() -> None:
    for page in PAGES:
        for block in blocks(page):
            known = block.needs in _SERVERS or re.fullmatch(r"skip: \w.+", block.marker)
            assert not block.marker or known, f"{page_id(page)}:{block.line}: {block.marker}"


# --- commands ------------------------------------------------------------------------------------


def _commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page):
        if block.language not in ("console", "sh", "bash", "shell"):
            continue
        for line in block.code.splitlines():
            if block.language != "console":
                yield shlex.split(line, comments=True)
            elif line.startswith("$ "):
                yield shlex.split(line.removeprefix("$ "), comments=True)
    for inline in re.findall(r"`((?:make|nox|alembic|python -m|pip install) [^`]+)`", prose(page)):
        yield shlex.split(inline)


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.M))


def _nox_sessions() -> set[str]:
    tree = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    decorated = {node.name: " ".join(map(ast.unparse, node.decorator_list)) for node in functions}
    sessions = {name: text for name, text in decorated.items() if "session" in text}
    return {found[1] if (found := re.search(r"name=.([\w-]+)", text)) else name for name, text in sessions.items()}


def _check(command: list[str]) -> None:
    """Raise AssertionError unless the command exists."""
    while command and re.fullmatch(r"[A-Z][A-Z_0-9]*=.*", command[0]):
        command = command[1:]
    match command:
        case []:
            return
        case ["make", *targets]:
            assert {target for target in targets if "=" not in target} <= _make_targets()
        case ["nox", "-s", session, *_]:
            assert re.sub(r"-3\.\d+$", "", session) in _nox_sessions()
        case ["nox", *_]:
            assert (ROOT / "noxfile.py").is_file()
        case ["alembic", *_]:
            assert (ROOT / "alembic.ini").is_file()
            assert importlib.util.find_spec("alembic") is not None
        case ["python", "-m", module, *_]:
            _check_module(module)
        case ["python", path, *_]:
            assert (ROOT / path).is_file()
        case ["pip", "install", *requirements]:
            for requirement in requirements:
                _check_requirement(requirement)
        case ["cd" | "git" | "psql" | "mariadb", *_]:
            return
        case _:
            raise AssertionError("nobody taught the test this command")


def _check_module(module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations is not None:
        assert importlib.util.find_spec(f"{module}.__main__") is not None


def _check_requirement(requirement: str) -> None:
    found = re.fullmatch(r"(?:-e|\.|prefiq-db)(?:\[([\w,]+)\])?", requirement)
    assert found is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(filter(None, (found[1] or "").split(","))) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    unknown = []
    for command in _commands(page):
        try:
            _check(command)
        except AssertionError as error:
            unknown.append(f"{shlex.join(command)}: {error}".strip())
    assert unknown == []


def test_a_command_that_is_not_there_is_found() -> None:
    for command in ("make tea", "nox -s tea", "python -m prefiq_db.tea", "pip install 'prefiq-db[tea]'", "tea"):
        with pytest.raises(AssertionError):
            _check(shlex.split(command))
