"""Every block of the documentation can be pasted and run as it stands, and every command in it exists.

Each Python block is a program of its own: it runs alone, in a process and a directory of its own, with warnings as
errors, and once more if it left anything behind. Only files that the page names above it are there
(``title="shop.py"``). Data (YAML, JSON, TOML, INI) is read by the parser of its language. ``pages.py`` lists what a
page can say about a block.
"""

from __future__ import annotations

import ast
import configparser
import importlib.util
import json
import os
import re
import shlex
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import interpreters
from tests.docs.pages import PAGES, ROOT, Block, blocks, page_id, prose

_SERVERS = ("postgresql", "mariadb", "mongodb")
# Blocks that are no programs, by page: each is the env.py of an Alembic history, which only Alembic can run; or needs
# what the commands of the tutorial do first; or a replica set.
_EXCERPTS = {
    "docs/migrations.md": 1,
    "docs/layering-alembic.md": 3,
    "docs/tutorial.md": 3,
    "docs/databases/mongodb.md": 1,
    "docs/how-to/orm-models.md": 1,
}
TUTORIAL = ROOT / "docs" / "tutorial.md"
# Pages that are one long program, whose blocks are pasted one after the other.
_ONE_PROGRAM = ("README.md",)
# Pages whose blocks are the files of a project: another test makes it and runs it.
_PROJECTS = {"docs/how-to/testing.md": "tests/docs/test_testing_page.py"}
# What is only for the newest Python.
_NEWEST = {"docs/guide/queries.md": 1}


def _read_env(text: str) -> None:
    for line in text.splitlines():
        assert re.fullmatch(r"(#.*|[A-Z][A-Z0-9_]*=.*)?", line), line


def _read_ini(text: str) -> None:
    configparser.ConfigParser(interpolation=None).read_string(text)


_READERS: dict[str, Callable[[str], Any]] = {
    "json": json.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
    "toml": tomllib.loads,
    "ini": _read_ini,
    "dotenv": _read_env,
}
# An error that Python could only print, as in a finalizer.
_BROKEN = re.compile(r"^(Traceback|Exception ignored|\S+Warning:)", re.M)
_COMMANDS = ("console", "sh", "bash", "shell")
_PLAIN = ("text", "sql", "promql", "dockerfile")


def _joined(name: str) -> Block:
    """Return the blocks of a page as one program, each at its own line."""
    page, code = ROOT / name, ""
    for block in (block for block in blocks(page) if block.language == "python"):
        code += "\n" * (block.line - 1 - code.count("\n")) + block.code
    return Block(page, "python", code, 1, "")


def _python_blocks() -> Iterator[Block]:
    for page in PAGES:
        yield from (block for block in blocks(page) if block.language == "python")


def _programs() -> Iterator[Any]:
    for page in _ONE_PROGRAM:
        yield pytest.param(_joined(page), id=page)
    for block in (block for block in _python_blocks() if page_id(block.page) not in {*_ONE_PROGRAM, *_PROJECTS}):
        if not block.is_excerpt:
            marks = [getattr(pytest.mark, block.needs), pytest.mark.integration] if block.needs in _SERVERS else []
            yield pytest.param(block, id=block.place, marks=marks)


@pytest.mark.parametrize("block", list(_programs()))
def test_a_block_runs_as_pasted(block: Block, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if sys.version_info[:2] < block.python:
        pytest.skip(f"a syntax of Python {'.'.join(map(str, block.python))}")
    for earlier in blocks(block.page):
        if earlier.title and earlier.line < block.line:
            _write(tmp_path / earlier.title, earlier)
    program = _write(tmp_path / (block.title or "pasted.py"), block)
    environment = _environment(tmp_path)
    if block.needs:
        server = request.getfixturevalue(f"{block.needs}_server")
        environment["DB_URL"] = server.url(server.create_database())
    before = sorted(tmp_path.rglob("*"))
    _run(program, environment, block.place)
    if block.needs or sorted(tmp_path.rglob("*")) != before:  # else a second run would find what the first one found
        _run(program, environment, f"{block.place}, second run")


def _run(program: Path, environment: dict[str, str], place: str) -> None:
    done = interpreters.run(
        _command(program), cwd=program.parent, env=environment, capture_output=True, text=True, timeout=100
    )
    broken = done.returncode != 0 or _BROKEN.search(done.stderr)  # what the library logs may be there
    assert not broken, f"{place}: {done.stdout}{done.stderr}"


def _write(file: Path, block: Block) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Empty lines before a program, so that a traceback names the line of the page.
    above = "\n" * (block.line - 1) if block.language == "python" else ""
    file.write_text(above + block.code, "utf-8")
    return file


def _command(program: Path) -> list[Any]:
    if program.name.startswith("test_"):
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:anyio", program]
    return [sys.executable, "-W", "error", program]


def _environment(home: Path) -> dict[str, str]:
    """Return the process's environment without settings of databases."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"DB_|DATABASE|PREFIQ_|PYTEST", name)}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"} | ({"HOME": str(home)} if "HOME" in kept else {})


def test_a_marker_is_understood_and_excerpts_are_few() -> None:
    excerpts: Counter[str] = Counter()
    newest: Counter[str] = Counter()
    for block in (block for page in PAGES for block in blocks(page) if block.marker):
        known = block.needs in _SERVERS or re.fullmatch(r"excerpt: \w.+|python 3\.14", block.marker)
        assert known, f"{block.place}: {block.marker}"
        excerpts[page_id(block.page)] += block.is_excerpt
        newest[page_id(block.page)] += bool(block.python)
    assert +excerpts == _EXCERPTS
    assert +newest == _NEWEST


def test_a_page_that_is_a_project_has_its_test() -> None:
    for page in (page for page in PAGES if page_id(page) in _PROJECTS):
        assert f'"{page.name}"' in (ROOT / _PROJECTS[page_id(page)]).read_text("utf-8")


def test_an_excerpt_is_python() -> None:
    for block in _python_blocks():
        if block.is_excerpt:
            ast.parse(block.code)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_data_of_a_page_can_be_read(page: Path) -> None:
    for block in blocks(page):
        if block.language in _READERS:
            _READERS[block.language](block.code)
        else:
            assert block.language in ("python", *_COMMANDS, *_PLAIN), (
                f"{block.place}: {block.language or 'no language'}"
            )


@pytest.mark.parametrize(
    "code",
    [
        "await something()\n",
        "db.fetch_all('select 1')\n",
        "import pathlib\npathlib.Path('left').touch(exist_ok=False)\n",
        "import warnings\nwarnings.warn('old', DeprecationWarning)\n",
    ],
    ids=["await", "a name from elsewhere", "not twice", "a warning"],
)
def test_control_a_block_that_is_no_program_is_found(code: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    block = Block(ROOT / "docs" / "index.md", "python", code, 1, "")
    with pytest.raises(AssertionError):
        test_a_block_runs_as_pasted(block, tmp_path, request)


# --- commands ------------------------------------------------------------------------------------


def _commands(page: Path) -> Iterator[list[str]]:
    if page == TUTORIAL:
        return  # test_tutorial.py runs them
    for block in blocks(page):
        if block.language not in _COMMANDS:
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
        case ["pip", "install", "-r", _] | ["python", "-m", "venv", _] | [".", _]:
            return
        case ["pip", "install", *requirements]:
            for requirement in requirements:
                _check_requirement(requirement)
        case ["prefiq-db", "migrate" | "bootstrap", *_]:  # their arguments: test_howto.py
            return
        case ["cd" | "curl" | "docker" | "flask" | "git" | "kubectl" | "mariadb" | "psql" | "pytest" | "uvicorn", *_]:
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
