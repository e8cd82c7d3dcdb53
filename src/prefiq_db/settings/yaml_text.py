"""YAML in the core schema of YAML 1.2, without duplicate keys.

PyYAML follows YAML 1.1, where ``05433`` is octal, ``1:30`` is 90, ``no`` is false and ``2024-01-01`` a date; and of
duplicate keys it silently takes the last.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import yaml
from yaml.constructor import ConstructorError

_TAG: Final = "tag:yaml.org,2002:"
_MERGE: Final = f"{_TAG}merge"
_BOOLEANS: Final = {"true": True, "false": False}
_FLOAT: Final = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_BASES: Final = {"0o": 8, "0x": 16}


class Twice(NamedTuple):
    """A duplicate key of one mapping, and the lines of both."""

    key: object
    first_line: int
    line: int


class _Loader(yaml.SafeLoader):
    # A separate table: without it the resolvers below would be added to PyYAML's.
    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as PyYAML reads it

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[Twice] = []

    def compose_mapping_node(self, anchor: Any) -> Any:
        # Here and not where the mapping is constructed: by then `<<` has merged other mappings' keys into it.
        node: Any = super().compose_mapping_node(anchor)
        lines: dict[object, int] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                key = "<<" if key_node.tag == _MERGE else self.construct_object(key_node)
                line = key_node.start_mark.line + 1
                if key in lines:
                    self.twice.append(Twice(key, lines[key], line))
                lines.setdefault(key, line)
        return node


def _null(loader: _Loader, node: Any) -> None:
    loader.construct_scalar(node)


def _bool(loader: _Loader, node: Any) -> bool:
    word = str(loader.construct_scalar(node)).lower()
    if word not in _BOOLEANS:
        raise ConstructorError(None, None, "expected true or false", node.start_mark)
    return _BOOLEANS[word]


def _int(loader: _Loader, node: Any) -> int:
    text = str(loader.construct_scalar(node))
    base = _BASES.get(text[:2], 10)
    return int(text if base == 10 else text[2:], base)


def _float(loader: _Loader, node: Any) -> float:
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _name, _pattern, _first, _constructor in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""], _null),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF"), _bool),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789"), _int),
    ("float", rf"{_FLOAT}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.0123456789"), _float),
    # Not in 1.2, but used in many files, and unambiguous.
    ("merge", r"<<", ["<"], None),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})\\Z"), _first)
    if _constructor is not None:
        _Loader.add_constructor(f"{_TAG}{_name}", _constructor)


def load_yaml(text: str) -> tuple[Any, list[Twice]]:
    """Return the content of a YAML text, and its duplicate keys.

    Raises:
        yaml.YAMLError: it is not YAML.
        ValueError: a value can't be constructed, such as a number with more digits than Python reads.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data(), loader.twice
    finally:
        loader.dispose()
