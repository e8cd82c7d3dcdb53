"""Binds of a text statement: check their names, and expand a list in ``IN :name`` to one bind per element."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import BindParameter, Executable, TextClause, TextualSelect, TString, bindparam

from prefiq_db.errors import UsageError
from prefiq_db.execution.core_binds import check_core
from prefiq_db.execution.in_places import ELSEWHERE, check_number, expand, is_list, places_of
from prefiq_db.execution.quoted_binds import CarefulText, as_read
from prefiq_db.execution.statement_facts import LONGEST_COMPILED, LongText
from prefiq_db.execution.templates import bind_template
from prefiq_db.memory import Memory

_SCALARS: Final = frozenset({str, int, float, bool, bytes, type(None)})
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
    if type(statement) is CarefulText:
        return _bind_with_care(_as_read(statement, dialect), params, dialect)
    if not (type(statement) is TextClause or type(statement) is LongText):
        if isinstance(statement, TextualSelect):
            return _bind_select(statement, params, dialect)
        check_core(statement, params)
        return bind_template(statement, dialect) if isinstance(statement, TString) else statement
    given = _NONE if params is None else params
    if given.keys() != statement._bindparams.keys():
        _check_names(statement._bindparams, given, "params")
    if _SCALARS.issuperset(map(type, given.values())):
        return statement
    return _expand_lists(statement, given, dialect)


def _as_read(statement: CarefulText, dialect: str) -> TextClause:
    return as_read(statement, dialect, TextClause if len(statement.text) <= LONGEST_COMPILED else LongText)


def _bind_with_care(statement: TextClause, params: Mapping[str, Any] | None, dialect: str) -> Executable:
    given = _NONE if params is None else params
    if given.keys() != statement._bindparams.keys():
        _check_names(statement._bindparams, given, "params")
    return _expand_lists(statement, given, dialect)


def _bind_select(statement: TextualSelect, params: Mapping[str, Any] | None, dialect: str) -> Executable:
    inner: Any = statement.element
    made = bind_params(inner, params, dialect)
    if made is inner:
        return statement
    copied: Any = statement._generate()
    copied.element = made
    return copied  # type: ignore[no-any-return]


def bind_rows(statement: Executable, rows: Sequence[Mapping[str, Any]], dialect: str) -> Executable:
    """Return *statement*; check that all *rows* have exactly the names of its binds, and lists only where allowed.

    Raises:
        UsageError: the message has the row's number and the names.
    """
    first = rows[0].keys()
    for number, row in enumerate(rows):
        if row.keys() != first:
            raise UsageError(_differing(number, row, rows[0]))
    if type(statement) is CarefulText:
        statement = _as_read(statement, dialect)
    if not isinstance(statement, TextClause):
        check_core(statement, rows[0], "rows[0]")
        return bind_template(statement, dialect) if isinstance(statement, TString) else statement
    if first != statement._bindparams.keys():
        _check_names(statement._bindparams, rows[0], "rows[0]")
    for name, places in places_of(statement.text, dialect).items():
        given = (number for number, row in enumerate(rows) if isinstance(row[name], (list, tuple)))
        refused = next(given, 0 if any(place.bare for place in places) else None)
        if refused is not None:
            raise UsageError(f"rows[{refused}]: a list for IN :{name} works for one statement; use execute for each")
    return statement


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


class _ExpandingText(TextClause):
    """A text with an expanded list.

    SQLAlchemy caches compiled statements by text and binds; whether a bind expands is not part of that key, but the
    class is. So the same text without a list, used elsewhere, gets its own cache entry.
    """

    inherit_cache = True
    __visit_name__ = "textclause"


def _expand_lists(statement: TextClause, given: Mapping[str, Any], dialect: str) -> Executable:
    places = places_of(statement.text, dialect)
    lists = frozenset(
        name
        for name, value in given.items()
        if name in places and not statement._bindparams[name].literal_execute and is_list(name, value, places[name])
    )
    if not lists:
        return statement
    for name in lists:
        if ELSEWHERE in places[name]:
            raise UsageError(f"params: {name} stands in IN :{name} and elsewhere too; give the list a name of its own")
    check_number(lists, given, dialect)
    empty = frozenset(name for name in lists if not given[name])
    plain = all(bind.required and bind.type._isnull for bind in statement._bindparams.values())
    if plain:
        return _plain_expansion(statement.text, dialect, lists, empty)
    return _expansion(statement.text, dialect, lists, empty, statement._bindparams)


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
    expanded = expand(sql, dialect, lists, empty)
    made = (_ExpandingText if len(sql) <= LONGEST_COMPILED else LongText)(expanded)
    given = {name: bind for name, bind in binds.items() if name in made._bindparams and name not in lists}
    types = {name: binds[name].type for name in lists if name in binds}
    expanding = [bindparam(name, expanding=True, type_=types.get(name)) for name in lists - empty]
    return made.bindparams(*given.values(), *expanding)
