"""The names that a Core construct accepts: its target's columns and its own binds; SQLAlchemy drops all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Executable, Insert, Update
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter, ClauseElement
from sqlalchemy.sql.selectable import CompoundSelect, Select

from prefiq_db.errors import UsageError

# The names of each construct, so that it is traversed once; most constructs live as long as their module.
_known: Final[WeakKeyDictionary[Any, frozenset[str]]] = WeakKeyDictionary()


def check_core(statement: Executable, params: Mapping[str, Any] | None, what: str = "params") -> None:
    """Raise if a value in *params*, or in a later row of ``insert().values([...])``, would be dropped.

    Raises:
        UsageError: the message has the names, and the row's number.
    """
    if isinstance(statement, Insert) and statement._multi_values:
        _check_rows(statement)
    if not params or not isinstance(statement, ClauseElement):
        return
    unknown = params.keys() - _names(statement)
    if unknown:
        names = ", ".join(sorted(map(str, unknown)))
        raise UsageError(f"{what}: the statement has no column or bind called {names}")


def _names(statement: Any) -> frozenset[str]:
    names = _known.get(statement)
    if names is None:
        _known[statement] = names = _found(statement)
    return names


def _found(statement: Any) -> frozenset[str]:
    if type(statement) in (Select, CompoundSelect):
        key = statement._generate_cache_key()
        if key is not None:  # SQLAlchemy needs it anyhow, and to look for the binds once more costs as much again
            return frozenset(bind.key for bind in key.bindparams)
    names = {each.key for each in visitors.iterate(statement) if isinstance(each, BindParameter)}
    if isinstance(statement, (Insert, Update)):
        names.update(getattr(statement.table, "c", {}).keys())
    return frozenset(names)


def _check_rows(statement: Insert) -> None:
    for group in statement._multi_values:
        first = group[0]
        for number, row in enumerate(group):
            if isinstance(row, Mapping) and isinstance(first, Mapping) and row.keys() != first.keys():
                odd = ", ".join(sorted(str(getattr(name, "key", name)) for name in row.keys() ^ first.keys()))
                raise UsageError(f"values[{number}]: has not the same keys as values[0]: {odd}; give None for NULL")
