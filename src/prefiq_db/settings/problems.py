"""Problems of settings: they show names and never values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

from pydantic_core import PydanticCustomError

from prefiq_db.errors import Problem, SettingsError

T = TypeVar("T")
Names = Callable[[str], str]  # field path ("retry.attempts") -> the user's name for it ("DB_RETRY__ATTEMPTS")


Complaint = tuple[str, str, str]  # path below the field, expected, fix


def field_error(expected: str, fix: str) -> PydanticCustomError:
    """Return an error for pydantic, about the field as a whole."""
    return field_errors([("", expected, fix)])


def field_errors(complaints: list[Complaint]) -> PydanticCustomError:
    """Return an error that carries complaints, where pydantic would carry the value."""
    return PydanticCustomError("prefiq_db", "see the context", {"complaints": complaints})


def read_complaints(context: Mapping[str, Any] | None) -> list[Complaint]:
    """Return the complaints in the context of a :func:`field_errors` error; none for pydantic's own errors."""
    found: list[Complaint] = (context or {}).get("complaints", [])
    return found


def collect(problems: list[Problem], function: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
    """Return the function's result, or ``None`` after noting its problems."""
    try:
        return function(*args, **kwargs)
    except SettingsError as error:
        problems.extend(error.problems)
        return None


# Other programs' names for our settings.
_ELSEWHERE: Final = {
    "hostname": "host",
    "server": "host",
    "database": "name",
    "dbname": "name",
    "username": "user",
    "login": "user",
    "pass": "password",
    "passwd": "password",
    "pwd": "password",
    "uri": "url",
    "dsn": "url",
    "driver": "engine",
    "dialect": "engine",
    "type": "engine",
    "ssl": "ssl_mode",
    "sslmode": "ssl_mode",
}


def guess_key(key: str, known: Collection[str]) -> list[str]:
    """Return our name if *key* is another program's name for it, or nearly ours; else nothing."""
    other = _ELSEWHERE.get(key.lower())
    return [other] if other is not None and other in known else difflib.get_close_matches(key, known, 1, cutoff=0.6)


def describe_unknown_key(key: object, known: Collection[str]) -> tuple[str, str]:
    """Return what was expected instead of *key*, and the likely fix."""
    close = guess_key(str(key), known)
    fix = f"did you mean {close[0]}?" if close else "remove it, or use one of " + ", ".join(known)
    return "a known setting", fix


def show_key(key: object) -> str:
    """Return a key that the user wrote, unless it doesn't look like one: it may be a value in the wrong place."""
    return str(key) if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", str(key)) else "(a key)"
