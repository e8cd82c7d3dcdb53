"""Rows converted as ``insert()`` converts them: defaults made in Python, then each column type's own conversion.

It uses what SQLAlchemy compiled ``insert()`` to, a column at a time instead of a row at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter, length_hint
from typing import Any

from sqlalchemy import Column, Insert

from prefiq_db.dialects.bulk import by_column
from prefiq_db.errors import PrefiqDbError
from prefiq_db.execution.given_rows import Values

_SCALAR, _CALLED = 1, 2


class BoundInsert:
    """An ``insert()`` of many rows, compiled for one dialect, and the conversion of rows for it.

    Attributes:
        statement: the Core construct.
        compiled: what SQLAlchemy compiled it to, with a bind for each of *columns*.
        columns: the columns that get a value from Python, given or by default, in the table's order.
        keys: their keys.
        given_keys: the keys of the columns that the caller gave, in the caller's order.
        is_plain: each column's value is sent as it is bound. Otherwise SQL makes some of them (a default that is a
            sequence or an expression, a type with an expression), and only SQLAlchemy's own ``insert()`` knows how.
        failed_at: after an error of ``complete()`` or ``bind()``: index of the row in the chunk, and the column.
    """

    def __init__(self, statement: Insert, keys: Sequence[str], dialect: Any) -> None:
        table: Any = statement.table
        self.statement = statement
        self.failed_at: tuple[int, Column[Any] | None] | None = None
        given: Any = statement.compile(dialect=dialect, column_keys=list(keys), for_executemany=True)
        defaults = {column.key: column._default_description_tuple for column in given.insert_prefetch}
        made = set(keys) | defaults.keys()
        self.columns: tuple[Column[Any], ...] = tuple(column for column in table.c if column.key in made)
        self.keys = tuple(column.key for column in self.columns)
        self.is_plain = _is_plain(table, self.columns, defaults, dialect)
        self._defaults = [(table.c[key], *how[:2]) for key, how in defaults.items()] if self.is_plain else []
        self.compiled: Any = given
        if self._defaults:
            self.compiled = statement.compile(dialect=dialect, column_keys=list(self.keys), for_executemany=True)
        self._reorder = _reordering(tuple(keys), self.keys)
        self.given_keys = tuple(keys)
        processors = self.compiled._bind_processors
        self._processors: list[tuple[int, Callable[[Any], Any]]] = [
            (place, processors[key]) for place, key in enumerate(self.keys) if key in processors
        ]
        self._dialect = dialect

    def complete(self, rows: list[Values], connection: Any) -> list[Values]:
        """Return *rows*, given in the order of the keys, with defaults made in Python, in the order of ``columns``."""
        if self._defaults:
            return self._with_defaults(rows, connection)
        return rows if self._reorder is None else list(map(self._reorder, rows))

    def bind(self, rows: list[Values]) -> list[Values]:
        """Return complete *rows* as the column types convert them for the driver."""
        if not self._processors or not rows:
            return rows
        columns: list[Any] = by_column(rows)
        for place, process in self._processors:
            values = iter(columns[place])
            try:
                columns[place] = list(map(process, values))
            except BaseException:
                self.failed_at = (len(rows) - length_hint(values) - 1, self.columns[place])
                raise
        return list(zip(*columns, strict=True))

    def _with_defaults(self, rows: list[Values], connection: Any) -> list[Values]:
        context = self._context(connection)
        order: Any = itemgetter(*self.keys) if len(self.keys) > 1 else lambda row: (row[self.keys[0]],)
        empty = dict.fromkeys(self.keys)
        complete: list[Values] = []
        for row in rows:
            params = dict(empty)
            params.update(zip(self.given_keys, row, strict=True))
            context.current_parameters = params
            for column, value, is_scalar in self._defaults:
                context.current_column = column
                try:
                    params[column.key] = value if is_scalar else value(context)
                except BaseException:
                    self.failed_at = (len(complete), column)
                    raise
            complete.append(order(params))
        return complete

    def _context(self, connection: Any) -> Any:
        """Return what a default's function gets: SQLAlchemy's execution context, as far as such functions use it."""
        context = self._dialect.execution_ctx_cls.__new__(self._dialect.execution_ctx_cls)
        context.dialect, context.compiled = self._dialect, self.compiled
        context.root_connection = context.connection = connection
        context.engine = connection.engine
        context.execution_options = connection.get_execution_options()
        context.isinsert = context.is_crud = True
        return context


def locate(bound: BoundInsert, error: PrefiqDbError, first_row: int) -> PrefiqDbError:
    """Return *error*, raised by a conversion of *bound*, with the row and the column that it is about."""
    if bound.failed_at is None:
        return error
    (place, column), bound.failed_at = bound.failed_at, None
    return in_place(error, first_row + place, None if column is None else column.name)


def in_place(error: PrefiqDbError, number: int, column: str | None = None) -> PrefiqDbError:
    """Return *error* with the index of the row, and the column if it is known, in its text and its attributes."""
    error.column = error.column or column
    where = f"rows[{number}]" if error.column is None else f"rows[{number}], column {error.column}"
    error.args = (f"{where}: {error}",)
    return error


def _is_plain(table: Any, columns: Sequence[Column[Any]], defaults: dict[str, Any], dialect: Any) -> bool:
    made = set(columns)
    for column in table.c:
        default = column.default
        if column not in made:
            if default is not None and (default.is_clause_element or default.is_sequence):
                return False
        elif column.type.dialect_impl(dialect)._has_bind_expression:
            return False
    # Each default is (value, whether it is one, whether it is a function, whether it marks rows).
    return all((how[_SCALAR] or how[_CALLED]) and not how[3] for how in defaults.values())


def _reordering(given: tuple[str, ...], wanted: tuple[str, ...]) -> Callable[[Values], Values] | None:
    if given == wanted or set(given) != set(wanted):
        return None
    return itemgetter(*[given.index(key) for key in wanted])
