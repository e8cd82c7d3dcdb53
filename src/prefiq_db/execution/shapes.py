"""What a verb makes of SQLAlchemy's result: fetched while the connection is held, finished afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, Insert

from prefiq_db.execution.mapping import Into, mapper
from prefiq_db.reports import ExecuteResult

Fetch = Callable[[CursorResult[Any]], Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """How to get an answer out of a result.

    Attributes:
        fetch: reads the result; what it raises is the database's error.
        finish: makes the answer of what was read; what it raises is the caller's own (``into=``).
    """

    fetch: Fetch
    finish: Callable[[Any], Any] | None = None

    def finished(self, fetched: Any) -> Any:
        return fetched if self.finish is None else self.finish(fetched)


def all_rows(into: Into | None) -> Shape:
    """Every row, as a list; an empty one for a statement that returns no rows."""
    make = mapper(into)
    return Shape(_fetch_all, None if make is None else lambda rows: [make(row) for row in rows])


def one_row(into: Into | None) -> Shape:
    """The first row, or ``None``."""
    make = mapper(into)
    return Shape(_fetch_first, None if make is None else lambda row: None if row is None else make(row))


def one_value(into: Callable[[Any], Any] | None) -> Shape:
    """The first column of the first row, or ``None``; *into* is called with the value unless that is NULL."""
    return Shape(_fetch_value, None if into is None else lambda value: None if value is None else into(value))


def _fetch_all(result: CursorResult[Any]) -> list[Any]:
    return list(result.all()) if result.returns_rows else []


def _fetch_first(result: CursorResult[Any]) -> Any:
    return result.first() if result.returns_rows else None


def _fetch_value(result: CursorResult[Any]) -> Any:
    row = _fetch_first(result)
    return None if row is None else row[0]


def _fetch_outcome(result: CursorResult[Any]) -> ExecuteResult:
    return ExecuteResult(rowcount=int(result.rowcount), inserted_primary_key=_primary_key(result))


def _primary_key(result: CursorResult[Any]) -> tuple[Any, ...] | None:
    context: Any = result.context
    statement = context.compiled.statement if context.compiled is not None else None
    if not isinstance(statement, Insert) or context.executemany:
        return None
    if statement._multi_values or statement._returning or statement.select is not None:
        return None
    key = result.inserted_primary_key
    return None if key is None else tuple(key)


executed = Shape(_fetch_outcome)
row_count = Shape(lambda result: int(result.rowcount))
