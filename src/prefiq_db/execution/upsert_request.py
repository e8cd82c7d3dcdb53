"""What the caller of ``upsert()`` asked for, checked before anything is sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ClauseElement

from prefiq_db.bridge import Runtime
from prefiq_db.dialects.upsert_sql import NewValue, Wanted, widths
from prefiq_db.errors import UsageError
from prefiq_db.execution.given_rows import GivenRows
from prefiq_db.execution.named_columns import NamedColumns
from prefiq_db.execution.target_tables import Target, UniqueKey, unique_keys

#: A statement ends at the first of these limits; larger ones are no faster.
MOST_ROWS: Final = 1000
MOST_BYTES: Final = 1_000_000
_OTHER_BYTES: Final = 32
#: How many binds one expression of an update may have.
_MOST_BINDS: Final = 20
_TEXTS: Final = frozenset({str, bytes, type(None)})
_SHORT: Final = frozenset({int, float, bool, Decimal, UUID, dt.date, dt.datetime, dt.time, type(None)})


@dataclass(frozen=True, slots=True)
class UpsertRequest:
    """One call.

    Attributes:
        wanted: everything but the rows.
        rows: the rows, by the keys of the table's columns.
        keys: each row's values of the key columns.
    """

    wanted: Wanted
    rows: Sequence[Mapping[str, Any]]
    keys: Sequence[tuple[Any, ...]]

    def chunks(self, most_binds: int | None) -> list[range]:
        """Return the numbers of the rows for each statement, as few statements as rows, binds and bytes allow."""
        width = widths(self.rows[0], self.wanted.table)
        spare = _MOST_BINDS * len(self.wanted.update) + 2
        most = MOST_ROWS if not most_binds else max(1, min(MOST_ROWS, (most_binds - spare) // width))
        chunks = []
        for start in range(0, len(self.rows), most):
            chunk = range(start, min(start + most, len(self.rows)))
            chunks += [chunk] if self._fits(chunk) else self._cut(chunk)
        return chunks

    def _fits(self, chunk: range) -> bool:
        """Return whether the rows are short enough for one statement; fast, for most of them are."""
        size = 0
        for column in zip(*(row.values() for row in self.rows[chunk.start : chunk.stop]), strict=True):
            kinds = set(map(type, column))
            if kinds <= _TEXTS:
                size += 2 * sum(map(len, filter(None, column))) + 2 * len(column)
            else:
                size += _OTHER_BYTES * len(column) if kinds <= _SHORT else sum(map(_bytes_of, column))
        return size <= MOST_BYTES

    def _cut(self, chunk: range) -> list[range]:
        cut, start, size = [], chunk.start, 0
        for number in chunk:
            own = sum(map(_bytes_of, self.rows[number].values()))
            if number > start and size + own > MOST_BYTES:
                cut.append(range(start, number))
                start, size = number, 0
            size += own
        return [*cut, range(start, chunk.stop)]

    def may_have_same_keys(self, dialect: Any) -> bool:
        """Return whether a database may take two different keys for the same one, by its collation or rounding."""
        types = [column.type.dialect_impl(dialect) for column in self.wanted.key_columns]
        seen: set[tuple[Any, ...]] = set()
        kinds: set[tuple[type, ...]] = set()
        for key in self.keys:
            kinds.add(tuple(map(type, key)))
            if len(kinds) > 1 or not all(map(_is_plain, key, types)):
                return True
            seen.add(tuple([part.casefold().rstrip() if isinstance(part, str) else part for part in key]))
        return len(seen) < len(self.keys)


def _bytes_of(value: Any) -> int:
    """Return an estimate of the length of *value* in a statement."""
    if isinstance(value, (str, bytes, bytearray)):
        return 2 * len(value) + 2
    return len(repr(value)) if isinstance(value, (dict, list)) else _OTHER_BYTES


def _is_plain(part: Any, type_: Any) -> bool:
    """Return whether *part* is the same as another value only if Python says so, but for letters' case and blanks."""
    if isinstance(part, str):
        return isinstance(type_, sa.String) and part.isascii() and part.isprintable()
    # A column of another type may round it.
    return isinstance(part, int) and isinstance(type_, (sa.Integer, sa.Boolean))


def request_of(
    target: Target, rows: Any, key: Any, update: Any, returning: Any, runtime: Runtime
) -> UpsertRequest | None:
    """Return the checked request; ``None`` if there is no row.

    Raises:
        UsageError: what is wrong, with the row's number and the column, and what exists; never a value.
    """
    names = _key_names(key, target)
    returned = tuple(target.table.c[each] for each in _names(returning, "returning", target))
    given = GivenRows([rows] if _is_one_row(rows) else rows, None, target, runtime)
    values = list(_all(given))
    if not values:
        _new_values(update, target, names, given.keys)
        return None
    for name in names:
        if name not in given.keys:
            raise UsageError(f"rows: the key column {name} has to be given in each row", column=name)
    rows_by_key = [dict(zip(given.keys, row, strict=True)) for row in values]
    places = [given.keys.index(name) for name in names]
    keys = [tuple([row[place] for place in places]) for row in values]
    keys = _checked_keys(keys, names)
    new = _new_values(update, target, names, given.keys)
    signature = None if isinstance(update, Mapping) else _signature(names, new)
    wanted = Wanted(target.table, names, new, returned, signature)
    return UpsertRequest(wanted, rows_by_key, keys)


def _is_one_row(rows: Any) -> bool:
    return isinstance(rows, (Mapping, BaseModel, sa.Row)) or (is_dataclass(rows) and not isinstance(rows, type))


def _all(given: GivenRows) -> Iterator[tuple[Any, ...]]:
    while chunk := given.next_chunk():
        yield from chunk


# --- key -----------------------------------------------------------------------------------------------------------


def _names(given: Any, what: str, target: Target) -> tuple[str, ...]:
    """Return the keys of the columns *given*: a name, a column, or several."""
    if given is None:
        return ()
    several = [given] if isinstance(given, str) or hasattr(given, "key") else given
    if not isinstance(several, Iterable) or isinstance(several, (bytes, Mapping)):
        raise UsageError(f"{what}: expected the names of columns, or Column objects, not {type(given).__name__}")
    names = []
    for each in several:
        try:
            names.append(target.column(each).key)
        except UsageError as error:
            refused = error
        else:
            continue
        refused.args = (f"{what}: {refused}",)
        raise refused
    return tuple(names)


def _key_names(key: Any, target: Target) -> tuple[str, ...]:
    names = _names(key, "key", target)
    existing = target.unique_keys()
    for each in existing:
        if set(each.columns) == set(names):
            return each.columns
    listed = " and ".join(map(_described, existing)) or "none"
    hint = "" if target.is_reflected else "; pass the table's name to use those that the database has"
    raise UsageError(
        f"key: ({', '.join(names)}) is no unique key of {target.table.name}; its unique keys are {listed}{hint}",
        table=target.table.name,
    )


def has_key(wanted: Wanted, table: sa.Table) -> bool:
    """Return whether *table* has a unique key of the columns that may conflict."""
    names = {column.name for column in wanted.key_columns}
    return any({table.c[key].name for key in each.columns} == names for each in unique_keys(table))


def check_key(wanted: Wanted, table: sa.Table) -> None:
    """Raise if the database's own *table* has no unique key of the columns that may conflict."""
    if not has_key(wanted, table):
        listed = " and ".join(map(_described, unique_keys(table))) or "none"
        raise UsageError(
            f"key: ({', '.join(wanted.key)}) is a unique key of the Table, but not in the database, where "
            f"{table.name}'s unique keys are {listed}",
            table=table.name,
        )


def _described(key: UniqueKey) -> str:
    columns = f"({', '.join(key.columns)})"
    return f"the primary key {columns}" if key.is_primary else columns


def _checked_keys(keys: list[tuple[Any, ...]], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return *keys*, each part with a hash, or raise for the first that is None or the same as another."""
    try:
        if len(set(keys)) == len(keys) and not any(None in column for column in zip(*keys, strict=True)):
            return keys
    except TypeError:
        pass  # a value that has no hash: it is looked at one by one
    seen: dict[tuple[Any, ...], int] = {}
    keys = [tuple([_hashable(part) for part in key]) for key in keys]
    for number, key in enumerate(keys):
        for name, part in zip(names, key, strict=True):
            if part is None:
                raise UsageError(
                    f"rows[{number}]: the key column {name} is None, and NULL never conflicts: the row would be "
                    "inserted each time; use bulk_insert or insert() for it",
                    column=name,
                )
        try:
            first = seen.setdefault(key, number)
        except TypeError:
            first = -1
        if first == number:
            continue
        if first < 0:
            raise UsageError(f"rows[{number}]: a value of its key ({', '.join(names)}) can't be compared")
        raise UsageError(
            f"rows[{number}]: has the same key ({', '.join(names)}) as rows[{first}]; give one row for each key"
        )
    return keys


def _hashable(part: Any) -> Any:
    return bytes(part) if isinstance(part, (bytearray, memoryview)) else part


# --- update --------------------------------------------------------------------------------------------------------


def _new_values(update: Any, target: Target, key: Sequence[str], given: Sequence[str]) -> Mapping[str, NewValue]:
    """Return the new value of each column to update, and of those that change with every update."""
    if update is None:
        values: dict[str, NewValue] = {name: _GivenValue(name) for name in given if name not in key}
    elif isinstance(update, Mapping):
        values = {}
        for name, value in update.items():
            (key_of_column,) = _names(name, "update", target)
            values[key_of_column] = _new_value(target, key_of_column, value)
    else:
        names = _names(update, "update", target)
        for name in names:
            if given and name not in given:
                raise UsageError(
                    f"update: the rows don't give {name}; give it an expression: update={{'{name}': ...}}", column=name
                )
        values = {name: _GivenValue(name) for name in names}
    if values:
        for column in target.table.c:
            if column.onupdate is not None and column.key not in values:
                values[column.key] = _OnUpdate(column, column.onupdate)
    return values


def _signature(key: tuple[str, ...], new: Mapping[str, NewValue]) -> Hashable:
    """Return what makes the statement: the columns, and of each whether its new value is the given one."""
    return (key, tuple(new.items()))


@dataclass(frozen=True, slots=True)
class _GivenValue:
    """The new value of a column is the one that the row gives."""

    name: str

    def __call__(self, stored: Any, given: Any) -> Any:
        return given[self.name]


@dataclass(frozen=True, slots=True)
class _OnUpdate:
    """The new value of a column is the one that SQLAlchemy's ``update()`` gives it when the statement doesn't."""

    column: sa.Column[Any]
    default: Any

    def __call__(self, stored: Any, given: Any) -> Any:
        default = self.default
        if default.is_callable:
            # One value for all rows of a statement.
            return sa.bindparam(None, callable_=lambda: default.arg(None), type_=self.column.type, unique=True)
        return default.next_value() if default.is_sequence else _as_expression(self.column, default.arg)


def _new_value(target: Target, key: str, value: Any) -> NewValue:
    column = target.table.c[key]

    def new(stored: Any, given: Any) -> Any:
        if not made:
            return _as_expression(column, value)
        return _as_expression(column, value(NamedColumns(target, stored), NamedColumns(target, given)))

    made = callable(value) and not hasattr(value, "__clause_element__") and not isinstance(value, ClauseElement)
    return new


def _as_expression(column: sa.Column[Any], value: Any) -> Any:
    if hasattr(value, "__clause_element__"):
        value = value.__clause_element__()
    if not isinstance(value, ClauseElement):
        return sa.null() if value is None else sa.bindparam(None, value, type_=column.type, unique=True)
    binds = 0

    def checked(element: Any, **options: Any) -> Any:
        # For a bind without a value SQLAlchemy would send each row in a statement of its own.
        nonlocal binds
        if not isinstance(element, sa.BindParameter) or element.callable is not None:
            return None
        if element.required:
            raise UsageError(f"update: the expression for {column.key} has a bind without a value: {element.key}")
        binds += 1
        return sa.null() if element.value is None else None

    value = visitors.replacement_traverse(value, {}, checked)
    if binds > _MOST_BINDS:
        raise UsageError(f"update: the expression for {column.key} has more than {_MOST_BINDS} values")
    return value
