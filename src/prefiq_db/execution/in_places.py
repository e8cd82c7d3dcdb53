"""Where a text has ``IN :name``, and what it becomes when a list is bound there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prefiq_db.dialects.rules import RULES
from prefiq_db.errors import ResourceError, UsageError
from prefiq_db.execution.sql_tokens import scan
from prefiq_db.memory import Memory

_NO_LISTS: Final = (str, bytes, bytearray, memoryview)


@dataclass(frozen=True, slots=True)
class Place:
    """One ``[NOT] IN :name`` or ``[NOT] IN (:name)``.

    Attributes:
        start, end: the span of ``:name`` with its parentheses.
        operator_start: where NOT IN or IN begins.
        row_start: where the row before it begins, as in ``(a, b) IN :pairs``; ``None`` for a single expression.
        negated: it is NOT IN.
        bare: it has no parentheses, so only a list makes sense.
    """

    start: int
    end: int
    operator_start: int
    row_start: int | None
    negated: bool
    bare: bool = False


def places_of(sql: str, dialect: str) -> Mapping[str, list[Place]]:
    """Return the places of binds after IN, by name."""
    known = _known_places.kept.get((sql, dialect))
    return _known_places.keep((sql, dialect), find_places(sql, dialect), sql) if known is None else known


def find_places(sql: str, dialect: str) -> Mapping[str, list[Place]]:
    """Find what :func:`places_of` returns."""
    tokens = scan(sql, RULES[dialect].lexis)
    texts, spans = tokens.texts, tokens.spans
    places: dict[str, list[Place]] = {}
    elsewhere = set()
    rows = _rows(texts)
    opened = [-1]
    for number, each in enumerate(texts):
        if each == "(":
            opened.append(number)
        elif each == ")" and len(opened) > 1:
            opened.pop()
        if len(each) < 2 or each[0] != ":" or each in ("::", ":="):
            continue
        in_parentheses = texts[number - 1 : number] == ["("] and texts[number + 1 : number + 2] == [")"]
        operator = number - 2 if in_parentheses else number - 1
        is_position = opened[-1] > 0 and texts[opened[-1] - 1] == "position"  # position(part in :text)
        if operator < 0 or texts[operator] != "in" or is_position:
            elsewhere.add(each[1:])
            continue
        first, last = (number - 1, number + 1) if in_parentheses else (number, number)
        negated = texts[operator - 1 : operator] == ["not"]
        operator -= negated
        row = rows.get(operator - 1)
        row_start = None if row is None else spans[row][0]
        place = Place(spans[first][0], spans[last][1], spans[operator][0], row_start, negated, not in_parentheses)
        places.setdefault(each[1:], []).append(place)
    for name in places.keys() & elsewhere:
        places[name].append(ELSEWHERE)
    return places


_known_places: Final[Memory[Mapping[str, list[Place]]]] = Memory(1024)
ELSEWHERE: Final = Place(-1, -1, -1, None, False)


def _rows(texts: list[str]) -> Mapping[int, int]:
    """Return the start of each ``(a, b)``, by its end."""
    rows: dict[int, int] = {}
    opened: list[tuple[int, int]] = []
    commas = 0
    for number, text in enumerate(texts):
        if text == "(":
            opened.append((number, commas))
            commas = 0
        elif text == "," and opened:
            commas += 1
        elif text == ")" and opened:
            start, outer = opened.pop()
            before = texts[start - 1] if start else ""
            is_call = before and (before[0].isalpha() or before[0] in "_'") and before not in _BEFORE_ROW
            if commas and not is_call:
                rows[number] = start
            commas = outer
    return rows


_BEFORE_ROW: Final = frozenset({"where", "and", "or", "not", "on", "having", "when", "then", "else", "select", "("})


def is_list(name: str, value: Any, places: Sequence[Place]) -> bool:
    """Return whether *value* is a list to expand; raise if only a list makes sense there, and it is none."""
    if isinstance(value, (list, tuple)):
        return True
    is_one = not isinstance(value, Iterable) or isinstance(value, _NO_LISTS)
    if is_one and not any(place.bare for place in places):
        return False
    hint = "; for a single value give a list of one, or write = instead of IN" if is_one else "; write list(...)"
    raise UsageError(f"params: {name} stands in IN :{name}: expected a list or tuple, not {type(value).__name__}{hint}")


def check_number(lists: frozenset[str], given: Mapping[str, Any], dialect: str) -> None:
    """Raise if the lists become more binds than *dialect* has room for, before anything is sent."""
    numbers = {name: _number_of_binds(given[name]) for name in lists}
    total = len(given) - len(lists) + sum(numbers.values())
    most = RULES[dialect].most_binds
    if total < _MANY or most is None or total <= most():
        return
    longest = max(numbers, key=numbers.__getitem__)
    raise ResourceError(
        f"params: {longest} has {len(given[longest])} elements, {total} binds with all others, and this database takes "
        f"at most {most()} in a statement; send it in parts, or put them into a table and join it"
    )


def _number_of_binds(values: Sequence[Any]) -> int:
    is_rows = bool(values) and isinstance(values[0], (list, tuple))
    return sum(map(len, values)) if is_rows else len(values)


# Every database takes as many, so the limit isn't looked up.
_MANY: Final = 1000


def expand(sql: str, dialect: str, lists: frozenset[str], empty: frozenset[str]) -> str:
    """Return *sql* with ``IN :name`` for each of *lists*; the condition with an *empty* one has no bind any more."""
    rules, parts, place = RULES[dialect], [], 0
    found = places_of(sql, dialect)
    inside = [(each, name) for name in lists for each in found[name]]
    for each, name in sorted(inside, key=lambda pair: pair[0].start):
        if name not in empty:
            start, written = each.start, f" :{name} "  # the parentheses went, so words could run together
        elif each.row_start is None:
            start, written = each.operator_start, rules.in_nothing[each.negated]
        else:  # the types of its columns are unknown here
            start, written = each.row_start, "(1 = 1)" if each.negated else "(1 = 0)"
        parts += [sql[place : max(place, start)], written]
        place = each.end
    return "".join([*parts, sql[place:]])
