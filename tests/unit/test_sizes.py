"""A file of more than 400 lines, or a function of more than 40, has a reason, and it stands here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import prefiq_db

PACKAGE = Path(prefiq_db.__file__).parent
MOST_LINES_OF_A_FILE = 400
#: A docstring doesn't count: what callers have to know takes the room that it takes.
MOST_LINES_OF_A_FUNCTION = 40

LONG_FILES = {
    "core/statements.py": "one noun: a call, prepared and carried out, in both worlds",
    "dialects/sqlite.py": "one database: its transactions, limits and clocks, which its two drivers share",
    "dialects/sqlite_decimals.py": "one idea: exact decimals on SQLite, their functions, and how Core calculates",
    "execution/direct.py": "a road and its shots, which know each other: apart, each would import the other",
    "pool/vetting.py": "one class: what is looked at when a connection is lent, and when it comes back",
    "transaction/root.py": "one class: the outermost transaction, from BEGIN to what became of it",
    "errors.py": "one tree of exceptions, which people read from its root to its leaves",
}

_HOT = "every statement passes here: a function more would cost each of them a call"
_ORDER = "the order of its try blocks is what it promises, and is read in one piece"

LONG_FUNCTIONS = {
    "core/statements.py:run": _HOT,
    "dialects/sending.py:_send": _HOT,
    "engines.py:_make": "one call of create_engine() with every option that we give it",
    "execution/one_shot.py:shoot": _HOT + "; docs/decisions/0149-why-the-short-way-is-one-function.md",
    "execution/awaited_one_shot.py:shoot_awaited": _HOT,
    "execution/pinned_ends.py:begin_usually": "every transaction passes here, as every statement passes shoot()",
    "execution/pinned_shot.py:shoot_pinned": _HOT + "; docs/decisions/0149-why-the-short-way-is-one-function.md",
    "transaction/root.py:shoot": _HOT,
    "insight/slow_log.py:note": "one log record with all its fields",
    "retry.py:with_retry_async": "the public arguments, and the decorator around them",
    "translation/border.py:cross": _ORDER,
    "translation/translate.py:translate": "from an exception to our error, step by step",
}


def long_functions(source: str) -> Iterator[str]:
    """Yield the name of each function of *source* that is too long."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1  # type: ignore[operator]  # a parsed node has its last line
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines -= first.end_lineno - first.lineno + 1  # type: ignore[operator]  # likewise
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield node.name


def test_a_long_file_has_a_reason() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if len(path.read_text("utf-8").splitlines()) > MOST_LINES_OF_A_FILE
    }
    assert found == LONG_FILES.keys()


def test_a_long_function_has_a_reason() -> None:
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}:{name}"
        for path in PACKAGE.rglob("*.py")
        for name in long_functions(path.read_text("utf-8"))
    }
    assert found == LONG_FUNCTIONS.keys()


def test_control_a_long_function_is_found() -> None:
    body = "\n".join(f"    a = {number}" for number in range(MOST_LINES_OF_A_FUNCTION))
    assert list(long_functions(f"def short():\n    '''Say it.'''\n{body[: body.rindex(chr(10))]}")) == []
    assert list(long_functions(f"async def long():\n{body}")) == ["long"]
