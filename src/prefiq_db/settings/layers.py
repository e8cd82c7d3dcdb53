"""The values of one layer, and the user's names for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from prefiq_db.config import RetryPolicy
from prefiq_db.errors import Problem
from prefiq_db.settings.database_settings import DatabaseSettings
from prefiq_db.settings.field_types import from_json
from prefiq_db.settings.problems import describe_unknown_key

FieldPath = tuple[str, ...]

#: The fields that each can say where a database is.
SAYS_WHERE: Final = frozenset({"engine", "url", "host", "name"})

LOADED: Final = tuple(name for name in DatabaseSettings.model_fields if name != "environment")

MAX_FILE_BYTES: Final = 2**22
MAX_SECRET_BYTES: Final = 2**16


@dataclass(frozen=True, slots=True)
class Entry:
    """One set value, the user's name for it, and the layer that it came from."""

    value: Any = field(repr=False)
    where: str
    layer: str


@dataclass(frozen=True, slots=True)
class Layer:
    """The values of one layer.

    Attributes:
        databases: by name, the fields with their paths: ``("retry", "attempts")``.
        sections: values for the user's models, by namespace.
        locate: (namespace, path) -> the user's name for it, or ``None`` if this layer doesn't set it.
        emptied: by database, the user's names for empty fields that would say where it is.
    """

    name: str
    databases: dict[str, dict[FieldPath, Entry]]
    sections: dict[str, dict[str, Any]]
    locate: Callable[[str, FieldPath], str | None]
    emptied: dict[str, list[str]] = field(default_factory=dict)


def put(entries: dict[FieldPath, Entry], path: FieldPath, entry: Entry, problems: list[Problem]) -> None:
    """Add one value to a layer; two names for one field must have the same value."""
    value = asdict(entry.value) if isinstance(entry.value, RetryPolicy) else entry.value
    if path == ("retry",) and isinstance(value, str):
        value = from_json(value)
    if path == ("retry",) and isinstance(value, Mapping):
        for key, item in value.items():
            put(entries, (*path, str(key)), replace(entry, value=item, where=f"{entry.where}.{key}"), problems)
        return
    other = entries.setdefault(path, entry)
    if other.value != entry.value:
        problems.append(Problem(entry.where, f"the same as in {other.where}, or nothing", "say it in one place only"))


def unknown_field(key: str) -> tuple[str, str]:
    """Return what was expected instead of this field of a database, and the likely fix."""
    if key == "environment":
        return "nothing: all databases of a process share one environment", "set PREFIQ_ENV"
    return describe_unknown_key(key, LOADED)


def is_name(name: str) -> bool:
    """Return whether a database or namespace may have this name: ``__`` would split its variables' names."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and "__" not in name


def read_text(path: Path, where: str, problems: list[Problem], limit_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the text of a file, or ``""`` after noting why it can't be read."""
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)  # a wrong path may be a disk, or /dev/zero
        if len(content) <= limit_bytes:
            return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        problem = Problem(where, f"a file of at most {limit_bytes} bytes", "check the path")
    except (OSError, ValueError):
        problem = Problem(where, "a file that can be read as UTF-8 text", "check the path and its permissions")
    problems.append(problem)
    return ""


def read_secret(path: str, where: str, problems: list[Problem]) -> str | None:
    """Return the content of a file without its last line break, or ``None`` after noting the problem."""
    found: list[Problem] = []
    text = read_text(Path(path), where, found, MAX_SECRET_BYTES)
    if not found and not text.strip():
        found.append(Problem(where, "a file with a value in it", "check that the secret was written"))
    problems.extend(found)
    return None if found else text.rstrip("\r\n")
