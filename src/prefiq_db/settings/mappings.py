"""The layers that are mappings: YAML files and arguments."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from prefiq_db.errors import Problem
from prefiq_db.settings.database_settings import DatabaseSettings, set_values
from prefiq_db.settings.field_types import drop_unset
from prefiq_db.settings.layers import (
    LOADED,
    SAYS_WHERE,
    Entry,
    FieldPath,
    Layer,
    is_name,
    put,
    read_text,
    unknown_field,
)
from prefiq_db.settings.problems import show_key
from prefiq_db.settings.yaml_text import load_yaml


def read_yaml(path: Path, problems: list[Problem]) -> Mapping[Any, Any]:
    """Return the content of a YAML file; an empty mapping if it is missing, empty or invalid.

    It is read as YAML 1.2 (docs/settings.md), and a duplicate key in a mapping is a problem.
    """
    fix = "write it like `database:` with indented `name: value` lines below"
    if not path.is_file():
        return {}
    text = read_text(path, path.name, problems)
    try:
        data, twice = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name} (line {mark.line + 1})" if mark else path.name
        problems.append(Problem(where, "valid YAML", fix))
        return {}
    for key, first_line, line in twice:
        expected = f"{show_key(key)} once, but line {first_line} has it too"
        problems.append(Problem(f"{path.name} (line {line})", expected, "keep one of the two: the last would win"))
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        problems.append(Problem(path.name, "a mapping at the top", fix))
        return {}
    return data


def mapping_layer(name: str, data: Mapping[Any, Any], namespaces: Collection[str], problems: list[Problem]) -> Layer:
    """Return the layer *name*, read out of *data*."""
    reader = _Reader(name, namespaces, problems)
    reader.read(data)
    return Layer(name, reader.databases, reader.sections, reader.locate, reader.emptied)


@dataclass(slots=True)
class _Reader:
    """One pass over a mapping. Goes on after a problem, so that the user sees all of them at once."""

    layer: str
    namespaces: Collection[str]
    problems: list[Problem]
    databases: dict[str, dict[FieldPath, Entry]] = field(default_factory=dict)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    emptied: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        return self.layer != "arguments"

    def read(self, data: Mapping[Any, Any]) -> None:
        for key, content in data.items():
            where = f"{self.layer}:{show_key(key)}"
            if content is None or (self.layer == "arguments" and key == "environment"):
                continue
            if key not in ("database", "databases") and key not in self.namespaces:
                self.judge_key(where, key)
            elif (found := self.mapping(where, content)) is None:
                continue
            elif key == "database":
                self.database("main", where, found)
            elif key == "databases":
                self.all_databases(where, found)
            else:
                self.sections[key] = dict(found)

    def judge_key(self, where: str, key: object) -> None:
        """Refuse a key that looks like a slip; in YAML, leave others alone: the file may serve other programs too."""
        known = ("database", "databases", *self.namespaces)
        slip = {"db": "database", "dbs": "databases"}.get(str(key).lower())
        close = [slip] if slip else difflib.get_close_matches(str(key).lower(), known, 1, cutoff=0.8)
        if close or self.layer == "arguments":
            fix = f"did you mean {close[0]}?" if close else "use one of " + ", ".join(known)
            self.problems.append(Problem(where, "a known key", fix))

    def mapping(self, where: str, content: object) -> Mapping[Any, Any] | None:
        if isinstance(content, DatabaseSettings):
            return set_values(content)
        if isinstance(content, BaseModel):
            return {name: getattr(content, name) for name in content.model_fields_set}
        if isinstance(content, Mapping):
            return content
        self.problems.append(Problem(where, "a mapping", "write indented `name: value` lines below it"))
        return None

    def all_databases(self, where: str, content: Mapping[Any, Any]) -> None:
        for key, section in content.items():
            name, below = str(key).lower(), f"{where}.{show_key(key)}"
            if not is_name(name):
                expected = "a name of letters, digits and single underscores"
                self.problems.append(Problem(below, expected, "rename this database"))
            elif (found := self.mapping(below, {} if section is None else section)) is not None:
                self.database(name, below, found)

    def database(self, name: str, where: str, content: Mapping[Any, Any]) -> None:
        entries = self.databases.setdefault(name, {})
        said = drop_unset(content)
        # In a program, None means not set.
        empty = [
            key for key in content if key in SAYS_WHERE - said.keys() and (content[key] is not None or self.is_file)
        ]
        self.emptied.setdefault(name, []).extend(f"{where}.{key}" for key in empty)
        for key, value in said.items():
            below = f"{where}.{show_key(key)}"
            if key not in LOADED:
                self.problems.append(Problem(below, *unknown_field(str(key))))
            else:
                put(entries, (key,), Entry(value, below, self.layer), self.problems)

    def locate(self, namespace: str, path: FieldPath) -> str | None:
        content: Any = self.sections.get(namespace)
        for key in path:
            if isinstance(content, Mapping) and key in content:
                content = content[key]
            elif not (isinstance(content, (list, tuple)) and key.isdecimal()):
                return None
        return f"{self.layer}:" + ".".join((namespace, *map(show_key, path)))
