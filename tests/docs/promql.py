"""Take a PromQL expression to pieces, as far as a test of its names needs it: metrics, labels and functions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

_TOKEN = re.compile(
    r"""\s+
    | (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<range>\[[^\]]*\])
    | (?P<number>\d[\w.]*)
    | (?P<name>[A-Za-z_:][\w:]*)
    | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},])
    """,
    re.X,
)
_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS = frozenset({"and", "or", "unless", "bool", "offset"})


@dataclass
class Selector:
    """A metric with its matchers, ``[5m]`` if it has a range, and the functions around it, the innermost first."""

    metric: str
    labels: set[str] = field(default_factory=set)
    ranged: bool = False
    inside: tuple[str, ...] = ()


@dataclass
class Query:
    """What an expression names.

    Attributes:
        grouped: the labels of ``by``, ``on`` and so on.
    """

    selectors: list[Selector] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)


def take_apart(expression: str) -> Query:
    """Return what *expression* names; raise ValueError where it can't be read."""
    tokens = _tokens(expression)
    found, functions, position = Query(), [], 0
    while position < len(tokens):
        kind, text = tokens[position]
        after = tokens[position + 1][1] if position + 1 < len(tokens) else ""
        position += 1
        if text == "(":
            functions.append("")
        elif text == ")":
            if not functions:
                raise ValueError(f"a bracket too many in {expression}")
            functions.pop()
        elif kind == "name" and text in _LISTS:
            end = tokens.index(("sign", ")"), position)
            found.grouped |= {name for kind, name in tokens[position:end] if kind == "name"}
            position = end + 1
            if position < len(tokens) and tokens[position][1] == "(" and tokens[position - 1][1] == ")":
                functions.append(_aggregator(tokens, position))
                position += 1
        elif kind == "name" and after == "(":
            functions.append(text)
            position += 1
        elif kind == "name" and text not in _WORDS and after not in _LISTS:
            selector = Selector(text, inside=tuple(name for name in reversed(functions) if name))
            position = _read_matchers(tokens, position, selector)
            found.selectors.append(selector)
    if functions:
        raise ValueError(f"an open bracket in {expression}")
    return found


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise ValueError(f"not PromQL: {expression[position:]}")
        if match.lastgroup is not None:
            tokens.append((match.lastgroup, match[0]))
        position = match.end()
    return tokens


def _aggregator(tokens: list[tuple[str, str]], position: int) -> str:
    """Return the word before ``by (...)``, whose brackets open at *position*."""
    start = max(index for index in range(position) if tokens[index][1] in _LISTS)
    return tokens[start - 1][1] if tokens[start - 1][0] == "name" else ""


def _read_matchers(tokens: list[tuple[str, str]], position: int, selector: Selector) -> int:
    if position < len(tokens) and tokens[position][1] == "{":
        end = tokens.index(("sign", "}"), position)
        inner = tokens[position + 1 : end]
        selector.labels = {name for (kind, name), _ in pairwise(inner) if kind == "name"}
        position = end + 1
    if position < len(tokens) and tokens[position][0] == "range":
        selector.ranged = True
        position += 1
    return position
