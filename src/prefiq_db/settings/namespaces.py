"""The user's own namespaces: fill their models from the layers, and report problems without values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prefiq_db.errors import Problem
from prefiq_db.settings.layers import Layer
from prefiq_db.settings.problems import show_key

# Our own texts by the beginning of pydantic's error type: its messages may quote the value.
_EXPECTED: Final = {
    "missing": "a value: it is required",
    "extra_forbidden": "a known setting",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "decimal": "a decimal number",
    "bool": "true or false",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern": "text that matches {pattern}",
    "string": "text",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal": "one of {expected}",
    "enum": "one of {expected}",
    "url": "a URL",
    "uuid": "a UUID",
    "datetime": "a date and time",
    "date": "a date",
    "timedelta": "a duration",
    "time": "a time",
    "path": "a path that exists",
    "list": "a list",
    "set": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
}


def fill_namespaces(
    namespaces: Mapping[str, type[BaseModel]], layers: list[Layer], sources: dict[str, str], problems: list[Problem]
) -> dict[str, BaseModel]:
    """Return each model filled from the layers; fill *sources* with the layer that set each of its fields."""
    filled: dict[str, BaseModel] = {}
    for name, model in namespaces.items():
        values: dict[str, Any] = {}
        for layer in layers:
            section = layer.sections.get(name, {})
            values = merge(values, section)
            sources |= {f"{name}.{key}": layer.name for key in section}
        try:
            filled[name] = model.model_validate(values)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            problems.extend(_section_problem(name, detail, layers) for detail in details)
    return filled


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return *old* updated with *new*, recursively for mappings."""
    result = dict(old)
    for key, value in new.items():
        earlier = result.get(key)
        mappings = isinstance(earlier, Mapping) and isinstance(value, Mapping)
        result[key] = merge(cast("Mapping[str, Any]", earlier), value) if mappings else value
    return result


def _section_problem(namespace: str, detail: ErrorDetails, layers: list[Layer]) -> Problem:
    path = tuple(map(str, detail["loc"]))
    variable = f"{namespace}_{'__'.join(map(show_key, path))}".upper()
    key = ".".join((namespace, *map(show_key, path)))
    where = next(filter(None, (layer.locate(namespace, path) for layer in reversed(layers) if path)), None)
    template = next((text for kind, text in _EXPECTED.items() if detail["type"].startswith(kind)), "")
    expected = template.format_map(_Context(detail.get("ctx") or {})) or f"what the settings of {namespace} accept"
    if not path:
        return Problem(namespace, expected, f"check how the settings of {namespace} fit together")
    return Problem(where or variable, expected, f"set {variable}, or {key} in settings.yaml")


class _Context(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "what is allowed"
