"""What is wrong with a setting, told by its name and never by its value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from pydantic_core import PydanticCustomError

from prefiq_db.errors import Problem, SettingsError

T = TypeVar("T")

Names = Callable[[str], str]  # field path ("retry.attempts") -> what the user calls it ("DB_RETRY__ATTEMPTS")


def wrong(expected: str, fix: str, sub: str = "") -> PydanticCustomError:
    return all_wrong([(sub, expected, fix)])


def all_wrong(problems: list[tuple[str, str, str]]) -> PydanticCustomError:
    """Return an error that carries (path below the field, expected, fix), where pydantic would carry the value."""
    return PydanticCustomError("prefiq_db", "see the context", {"problems": problems})


def collect(problems: list[Problem], function: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
    """Return the function's result, or ``None`` after noting its problems."""
    try:
        return function(*args, **kwargs)
    except SettingsError as error:
        problems.extend(error.problems)
        return None


def carried_problems(error: PydanticCustomError, where: str) -> list[Problem]:
    return [Problem(where, expected, fix) for _, expected, fix in (error.context or {})["problems"]]


def unknown_key(key: object, known: Collection[str]) -> tuple[str, str]:
    close = difflib.get_close_matches(str(key), known, 1, cutoff=0.6)
    fix = f"did you mean {close[0]}?" if close else "remove it, or use one of " + ", ".join(known)
    return "a known setting", fix


def shown_key(key: object) -> str:
    """Return a key the user wrote, unless it doesn't look like one: then it may be a value in the wrong place."""
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(key)) else "(a key)"
