"""The layers that are mappings: YAML files and arguments."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from prefiq_db.errors import Problem
from prefiq_db.settings.database import DatabaseSettings
from prefiq_db.settings.layers import LOADED, Entry, FieldPath, Layer, is_name, put, read_text, unknown_field
from prefiq_db.settings.problems import shown_key
from prefiq_db.settings.values import drop_unset


def read_yaml(path: Path, problems: list[Problem]) -> Mapping[Any, Any]:
    if not path.is_file():
        return {}
    text = read_text(path, path.name, problems)
    where, data = path.name, None
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name} (line {mark.line + 1})" if mark else path.name
        data = where
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        expected = "a mapping at the top" if data is not where else "valid YAML"
        problems.append(Problem(where, expected, "write it like `database:` with indented `name: value` lines below"))
        return {}
    return data


def mapping_layer(layer: str, data: Mapping[Any, Any], namespaces: Collection[str], problems: list[Problem]) -> Layer:
    databases: dict[str, dict[FieldPath, Entry]] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, content in data.items():
        where = f"{layer}:{shown_key(key)}"
        if content is None or (layer == "arguments" and key == "environment"):
            continue
        if key not in ("database", "databases") and key not in namespaces:
            _judge_key(layer, key, namespaces, problems)
        elif (content := _as_mapping(content)) is None:
            problems.append(Problem(where, "a mapping", "write indented `name: value` lines below it"))
        elif key == "database":
            _put_database(databases, "main", where, layer, content, problems)
        elif key == "databases":
            _put_databases(databases, where, layer, content, problems)
        else:
            sections[key] = dict(content)
    return Layer(layer, databases, sections, lambda name, path: _locate_key(layer, sections, name, path))


def _as_mapping(content: object) -> Mapping[Any, Any] | None:
    if isinstance(content, DatabaseSettings):
        return content._set_values()
    if isinstance(content, BaseModel):
        return {name: getattr(content, name) for name in content.model_fields_set}
    return content if isinstance(content, Mapping) else None


def _judge_key(layer: str, key: object, namespaces: Collection[str], problems: list[Problem]) -> None:
    """Refuse a key that looks like a slip; in YAML, leave others alone: the file may serve other programs too."""
    known = ("database", "databases", *namespaces)
    slips = {"db": "database", "dbs": "databases"}
    close = [slips.get(str(key).lower(), ""), *difflib.get_close_matches(str(key).lower(), known, 1, cutoff=0.8)]
    if any(close) or layer == "arguments":
        fix = f"did you mean {next(filter(None, close), '')}?" if any(close) else "use one of " + ", ".join(known)
        problems.append(Problem(f"{layer}:{shown_key(key)}", "a known key", fix))


def _put_databases(
    databases: dict[str, dict[FieldPath, Entry]],
    where: str,
    layer: str,
    content: Mapping[Any, Any],
    problems: list[Problem],
) -> None:
    for name, section in content.items():
        below = f"{where}.{shown_key(name)}"
        fields_of = {} if section is None else _as_mapping(section)
        if not is_name(str(name).lower()):
            problems.append(Problem(below, "a name of letters, digits and single underscores", "rename this database"))
        elif fields_of is None:
            problems.append(Problem(below, "a mapping", "write indented `name: value` lines below it"))
        else:
            _put_database(databases, str(name).lower(), below, layer, fields_of, problems)


def _put_database(
    databases: dict[str, dict[FieldPath, Entry]],
    name: str,
    where: str,
    layer: str,
    content: Mapping[Any, Any],
    problems: list[Problem],
) -> None:
    entries = databases.setdefault(name, {})
    for key, value in drop_unset(content).items():
        below = f"{where}.{shown_key(key)}"
        if key not in LOADED:
            problems.append(Problem(below, *unknown_field(str(key))))
        else:
            put(entries, (key,), Entry(value, below, layer), problems)


def _locate_key(layer: str, sections: Mapping[str, Any], namespace: str, path: FieldPath) -> str | None:
    content = sections.get(namespace)
    for key in path:
        if isinstance(content, Mapping) and key in content:
            content = content[key]
        elif not (isinstance(content, (list, tuple)) and key.isdecimal()):
            return None
    return f"{layer}:" + ".".join((namespace, *map(shown_key, path)))
