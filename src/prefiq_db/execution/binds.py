"""Binds of a text statement: check their names, and expand a list in ``IN :name`` to one bind per element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BindParameter, Executable, TextClause, TextualSelect, bindparam

from prefiq_db.dialects.rules import RULES
from prefiq_db.errors import ResourceError, UsageError
from prefiq_db.execution.core_binds import check_core
from prefiq_db.execution.sql_tokens import scan
from prefiq_db.execution.statement_facts import LONGEST_COMPILED, LongText
from prefiq_db.memory import Memory

_SCALARS: Final = frozenset({str, int, float, bool, bytes, type(None)})
_NO_LISTS: Final = (str, bytes, bytearray, memoryview)
_NONE: Final[Mapping[str, Any]] = {}


def check_params(params: Any) -> Mapping[str, Any] | None:
    """Return *params*, or raise if they aren't a mapping from bind name to value."""
    if params is None or type(params) is dict or isinstance(params, Mapping):
        return params
    raise UsageError(
        f"params: expected a mapping of bind names to values, not {type(params).__name__}; "
        "for many rows use execute_many"
    )


def checked_rows(rows: Iterable[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return *rows* as a list, or raise if they aren't mappings."""
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
        raise UsageError("rows: expected a sequence of mappings, one per row; for a single one use execute")
    made = list(rows)
    for number, row in enumerate(made):
        if not isinstance(row, Mapping):
            raise UsageError(f"rows[{number}]: expected a mapping of bind names to values, not {type(row).__name__}")
    return made


def bind_params(statement: Executable, params: Mapping[str, Any] | None, dialect: str) -> Executable:
    """Return *statement* ready for *params*: a list or tuple in ``IN :name`` or ``IN (:name)`` is expanded.

    Raises:
        UsageError: if a text has no bind for a name in *params*, or *params* no value for a bind.
    """
    if not (type(statement) is TextClause or type(statement) is LongText):
        if isinstance(statement, TextualSelect):
            return _bind_select(statement, params, dialect)
        check_core(statement, params)
        return statement
    given = _NONE if params is None else params
    if given.keys() != statement._bindparams.keys():
        _check_names(statement._bindparams, given, "params")
    if _SCALARS.issuperset(map(type, given.values())):
        return statement
    return _expand_lists(statement, given, dialect)


def _bind_select(statement: TextualSelect, params: Mapping[str, Any] | None, dialect: str) -> Executable:
    inner: Any = statement.element
    made = bind_params(inner, params, dialect)
    if made is inner:
        return statement
    copied: Any = statement._generate()
    copied.element = made
    return copied  # type: ignore[no-any-return]


def bind_rows(statement: Executable, rows: Sequence[Mapping[str, Any]], dialect: str) -> None:
    """Check that all *rows* have exactly the names of *statement*'s binds, and lists only where allowed.

    Raises:
        UsageError: the message has the row's number and the names.
    """
    first = rows[0].keys()
    for number, row in enumerate(rows):
        if row.keys() != first:
            raise UsageError(_differing(number, row, rows[0]))
    if not isinstance(statement, TextClause):
        check_core(statement, rows[0], "rows[0]")
        return
    if first != statement._bindparams.keys():
        _check_names(statement._bindparams, rows[0], "rows[0]")
    for name in _places(statement.text, dialect):
        for number, row in enumerate(rows):
            if isinstance(row[name], (list, tuple)):
                raise UsageError(f"rows[{number}]: a list for IN :{name} works for one statement; use execute for each")


def _differing(number: int, row: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    more, less = _list_places(row.keys() - first.keys()), _list_places(first.keys() - row.keys())
    parts = [f"has {more}, which rows[0] lacks"] if more else []
    parts += [f"lacks {less}, which rows[0] has"] if less else []
    return f"rows[{number}]: {' and '.join(parts)}; all rows of a batch need the same keys (give None for NULL)"


def _check_names(binds: Mapping[str, BindParameter[Any]], given: Mapping[str, Any], what: str) -> None:
    unknown = given.keys() - binds.keys()
    if unknown:
        raise UsageError(f"{what}: the statement has no bind called {_list_places(unknown)}")
    missing = {name for name in binds.keys() - given.keys() if binds[name].required}
    if missing:
        raise UsageError(f"{what}: no value for {_list_places(missing)}")


def _list_places(names: Iterable[Any]) -> str:
    return ", ".join(sorted(name if isinstance(name, str) else f"<{type(name).__name__}>" for name in names))


# --- lists ------------------------------------------------------------------------------------------------------------


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


class _ExpandingText(TextClause):
    """A text with an expanded list.

    SQLAlchemy caches compiled statements by text and binds; whether a bind expands is not part of that key, but the
    class is. So the same text without a list, used elsewhere, gets its own cache entry.
    """

    inherit_cache = True
    __visit_name__ = "textclause"


def _expand_lists(statement: TextClause, given: Mapping[str, Any], dialect: str) -> Executable:
    places = _places(statement.text, dialect)
    lists = frozenset(
        name
        for name, value in given.items()
        if name in places and not statement._bindparams[name].literal_execute and _is_list(name, value, places[name])
    )
    if not lists:
        return statement
    for name in lists:
        if _ELSEWHERE in places[name]:
            raise UsageError(f"params: {name} stands in IN :{name} and elsewhere too; give the list a name of its own")
    _check_number(lists, given, dialect)
    empty = frozenset(name for name in lists if not given[name])
    plain = all(bind.required and bind.type._isnull for bind in statement._bindparams.values())
    if plain:
        return _plain_expansion(statement.text, dialect, lists, empty)
    return _expansion(statement.text, dialect, lists, empty, statement._bindparams)


def _is_list(name: str, value: Any, places: Sequence[Place]) -> bool:
    if isinstance(value, (list, tuple)):
        return True
    if any(place.bare for place in places):
        raise UsageError(f"params: {name} stands in IN :{name}: expected a list or tuple, not {type(value).__name__}")
    if isinstance(value, Iterable) and not isinstance(value, _NO_LISTS):
        raise UsageError(f"params: {name} stands in IN :{name}: expected a list or tuple, not {type(value).__name__}")
    return False


def _check_number(lists: frozenset[str], given: Mapping[str, Any], dialect: str) -> None:
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


#: Every database takes fewer: SQLite's least limit.
_MANY: Final = 1000

_plain_expansions: Final[Memory[TextClause]] = Memory(512)


def _plain_expansion(sql: str, dialect: str, lists: frozenset[str], empty: frozenset[str]) -> TextClause:
    key = (sql, dialect, lists, empty)
    known = _plain_expansions.kept.get(key)
    if known is None:
        made = _expansion(sql, dialect, lists, empty, {})
        return _plain_expansions.keep(key, made, sql, made.text)
    return known


def _expansion(
    sql: str, dialect: str, lists: frozenset[str], empty: frozenset[str], binds: Mapping[str, BindParameter[Any]]
) -> TextClause:
    rules, parts, place = RULES[dialect], [], 0
    found = _places(sql, dialect)
    inside = [(each, name) for name in lists for each in found[name]]
    for each, name in sorted(inside, key=lambda pair: pair[0].start):
        if name not in empty:
            start, written = each.start, f":{name}"
        elif each.row_start is None:
            start, written = each.operator_start, rules.in_nothing[each.negated]
        else:  # the types of its columns are unknown here
            start, written = each.row_start, "(1 = 1)" if each.negated else "(1 = 0)"
        parts += [sql[place : max(place, start)], written]
        place = each.end
    made = (_ExpandingText if len(sql) <= LONGEST_COMPILED else LongText)("".join([*parts, sql[place:]]))
    given = {name: bind for name, bind in binds.items() if name in made._bindparams and name not in lists}
    types = {name: binds[name].type for name in lists if name in binds}
    expanding = [bindparam(name, expanding=True, type_=types.get(name)) for name in lists - empty]
    return made.bindparams(*given.values(), *expanding)


def _places(sql: str, dialect: str) -> Mapping[str, list[Place]]:
    """Return the places of binds after IN, by name."""
    known = _known_places.kept.get((sql, dialect))
    return _known_places.keep((sql, dialect), _find_places(sql, dialect), sql) if known is None else known


def _find_places(sql: str, dialect: str) -> Mapping[str, list[Place]]:
    tokens = scan(sql, RULES[dialect].lexis)
    texts, spans = tokens.texts, tokens.spans
    places: dict[str, list[Place]] = {}
    elsewhere = set()
    rows = _rows(texts)
    for number, each in enumerate(texts):
        if len(each) < 2 or each[0] != ":" or each in ("::", ":="):
            continue
        in_parentheses = texts[number - 1 : number] == ["("] and texts[number + 1 : number + 2] == [")"]
        operator = number - 2 if in_parentheses else number - 1
        if operator < 0 or texts[operator] != "in":
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
        places[name].append(_ELSEWHERE)
    return places


_known_places: Final[Memory[Mapping[str, list[Place]]]] = Memory(1024)
_ELSEWHERE: Final = Place(-1, -1, -1, None, False)


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
