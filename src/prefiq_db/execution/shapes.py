"""How a verb turns SQLAlchemy's result into its own: fetched while the connection is held, finished afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import CursorResult, Insert, TextClause, UpdateBase
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData

from prefiq_db.call import Reads, Shape
from prefiq_db.errors import RowNotFoundError, TooManyRowsError, UsageError
from prefiq_db.execution.mapping import Into, mapper
from prefiq_db.execution.statement_facts import COUNTED, facts_sent
from prefiq_db.reports import ExecuteResult

_new: Final = object.__new__


def all_rows(into: Into) -> Shape:
    """Every row, each converted by *into*, as a list; empty for a statement that returns no rows."""
    return _of_class(_all_rows, into) if _is_class(into) else _all_rows(into)


def one_row(into: Into) -> Shape:
    """The first row, converted by *into*, or ``None``."""
    return _of_class(_one_row, into) if _is_class(into) else _one_row(into)


def _is_class(into: Any) -> bool:
    return isinstance(into, type) and type(into).__hash__ is type.__hash__


@lru_cache(512)
def _of_class(shape_of: Callable[[Into], Shape], into: Any) -> Shape:
    """Return the shape for a class: to look at its fields costs more than a statement."""
    return shape_of(into)


def _all_rows(into: Into) -> Shape:
    make = mapper(into)
    return Shape(_fetch_all, lambda rows: [make(row) for row in rows], make is into, Reads.EVERY_ROW)


def _one_row(into: Into) -> Shape:
    make = mapper(into)
    return Shape(_fetch_first, lambda row: None if row is None else make(row), make is into, Reads.FIRST_ROW)


def exactly_one_row(into: Into) -> Shape:
    """The only row, converted by *into*."""
    make = mapper(into)
    return Shape(_fetch_two, lambda rows: make(_only(rows)), typed=make is into)


def one_value(into: Callable[[Any], Any]) -> Shape:
    """The first column of the first row, converted by *into* unless it is NULL; ``None`` without a row.

    Raises:
        UsageError: if *into* is not callable.
    """
    if not callable(into):
        raise UsageError(f"into: expected a callable that takes a value, not {type(into).__name__}")
    return Shape(_fetch_value, lambda value: None if value is None else into(value), True, Reads.FIRST_VALUE)


def _fetch_all(result: CursorResult[Any]) -> list[Any]:
    return list(result.all()) if result.returns_rows else []


def _fetch_first(result: CursorResult[Any]) -> Any:
    return result.first() if result.returns_rows else None


def _fetch_two(result: CursorResult[Any]) -> Sequence[Any]:
    if not result.returns_rows:
        return ()
    rows = result.fetchmany(2)
    result.close()  # there may be more
    return rows


def _only(rows: Sequence[Any]) -> Any:
    if not rows:
        raise RowNotFoundError("fetch_exactly_one: the statement gave no row; where that may be, use fetch_one")
    if len(rows) > 1:
        raise TooManyRowsError(
            "fetch_exactly_one: the statement gave more than one row; its condition must single one out, or use "
            "fetch_one for the first"
        )
    return rows[0]


def _fetch_value(result: CursorResult[Any]) -> Any:
    row = _fetch_first(result)
    return None if row is None else row[0]


def _fetch_outcome(result: CursorResult[Any]) -> ExecuteResult:
    if not result.returns_rows:
        context: Any = result.context
        compiled = context.compiled
        if compiled is not None and type(compiled.statement) is TextClause and not context.executemany:
            return _outcome_of_text(result, context)
    rows = _rows(result)
    count = _count(result, rows)
    key = None if count == 0 else _primary_key(result)
    return ExecuteResult(count, key, () if rows is None else rows, _other_rows(result))


def _outcome_of_text(result: CursorResult[Any], context: Any) -> ExecuteResult:
    """Return the outcome of one text without rows: the same, with less to ask."""
    facts, count = facts_sent(context, context.statement, context.dialect.label), result.rowcount
    return outcome_of_text(facts.verb in COUNTED and not facts.weighted, count, _other_rows(result))


class _Draft(ExecuteResult):
    """Becomes an ``ExecuteResult``; see :mod:`prefiq_db.insight.drafts`."""

    __slots__ = ()
    __setattr__, __delattr__ = object.__setattr__, object.__delattr__


def outcome_of_text(is_counted: bool, count: int, others: Sequence[Sequence[Any]] = ()) -> ExecuteResult:
    """Return the outcome of a text without rows: *count*, where that is a number of rows, and known."""
    made: Any = _new(_Draft)
    made.rowcount = int(count) if is_counted and count >= 0 else None
    made.inserted_primary_key, made.rows, made.other_rows = None, (), others
    made.__class__ = ExecuteResult
    outcome: ExecuteResult = made
    return outcome


def _other_rows(result: CursorResult[Any]) -> Sequence[Sequence[Any]]:
    """Return the result sets after the first one; the dialect has read them already."""
    others = getattr(result.context.cursor, "other_results", None)
    if not others:
        return ()
    return [_as_rows([column[0] for column in description], rows) for description, rows in others]


def _as_rows(names: Sequence[str], rows: Iterable[Any]) -> Sequence[Any]:
    return IteratorResult(SimpleResultMetaData(names), map(tuple, rows)).all()


def _fetch_count(result: CursorResult[Any]) -> int | None:
    return _count(result, _rows(result))


def _rows(result: CursorResult[Any]) -> Sequence[Any] | None:
    """Return the rows that the caller asked for; the rows of a RETURNING that SQLAlchemy added are read already."""
    if not result.returns_rows:
        return None
    context: Any = result.context
    statement = context.compiled.statement if context.compiled is not None else None
    if isinstance(statement, UpdateBase) and not statement._returning:
        return None
    return result.all()


def _count(result: CursorResult[Any], rows: Sequence[Any] | None) -> int | None:
    """Return how many rows a statement changed; ``None`` if unknown."""
    context: Any = result.context
    facts = facts_sent(context, context.statement, context.dialect.label)
    if facts.verb not in COUNTED or facts.weighted:
        return None
    many_texts = context.executemany and not context.is_crud
    if rows is not None and not many_texts:  # drivers count them before or after reading, or not at all
        return len(rows)
    # SQLAlchemy sends a batch of INSERTs in pieces, and counts the rows that it has sent.
    count = getattr(context, "inserted_row_count", None)
    if count is None:
        count = result.rowcount
    if count < 0 or (count == 0 and facts.returning and many_texts):
        return None
    return int(count)


def _primary_key(result: CursorResult[Any]) -> tuple[Any, ...] | None:
    context: Any = result.context
    compiled = context.compiled
    statement = compiled.statement if compiled is not None else None
    if not isinstance(statement, Insert) or context.executemany:
        return None
    if statement._multi_values or statement._returning or statement.select is not None:
        return None
    upsert = statement._post_values_clause
    if upsert is not None and upsert.__visit_name__ != "on_conflict_do_nothing" and not compiled.effective_returning:
        return None  # the driver reports the last row inserted on the connection, by whatever statement
    key = result.inserted_primary_key
    return None if key is None or None in key else tuple(key)


#: every row, as a list; an empty one for a statement that returns no rows
ALL_ROWS: Final = Shape(_fetch_all, typed=True, reads=Reads.EVERY_ROW)
#: the first row, or ``None``
ONE_ROW: Final = Shape(_fetch_first, typed=True, reads=Reads.FIRST_ROW)
#: the only row
EXACTLY_ONE_ROW: Final = Shape(_fetch_two, _only, typed=True)
#: the first column of the first row, or ``None``
ONE_VALUE: Final = Shape(_fetch_value, typed=True, reads=Reads.FIRST_VALUE)
#: the :class:`~prefiq_db.reports.ExecuteResult`
OUTCOME: Final = Shape(_fetch_outcome)
#: how many rows were changed; ``None`` if unknown
ROW_COUNT: Final = Shape(_fetch_count)
