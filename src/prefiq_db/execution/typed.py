"""Text statements with result types: ``types={"amount": Money}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import CursorResult, TextClause, TString
from sqlalchemy.sql.selectable import TextualSelect
from sqlalchemy.types import TypeEngine, to_instance

from prefiq_db.call import Shape
from prefiq_db.errors import UsageError
from prefiq_db.execution.statement_facts import LONGEST_COMPILED, as_executable
from prefiq_db.memory import Memory

Types = Mapping[str, Any]


def with_types(statement: Any, types: Types | None, shape: Shape) -> tuple[Any, Shape]:
    """Return a text *statement* with column *types*, and *shape* extended to check that all these columns exist.

    Raises:
        UsageError: for a statement that isn't text, or a type that isn't SQLAlchemy's.
    """
    if types is None:
        return statement, shape
    text = as_executable(statement)
    if not isinstance(text, (TextClause, TString)):
        raise UsageError("types: only for text; a Core construct knows its columns' types")
    if not isinstance(types, Mapping):
        raise UsageError(f"types: expected a mapping of column names to types, not {type(types).__name__}")
    if isinstance(text, TString):
        return _made(text, tuple(types.items())), _checked(shape, tuple(types))  # it holds values: not to be kept
    return _with_columns(text, tuple(types.items())), _checked(shape, tuple(types))


# One object per text and types: SQLAlchemy would compile a new one each time.
_known: Final[Memory[TextualSelect]] = Memory(512)


def _with_columns(text: TextClause, types: tuple[tuple[str, Any], ...]) -> TextualSelect:
    known = _known.kept.get((text, types))
    if known is None:
        made = _made(text, types)
        return made if len(text.text) > LONGEST_COMPILED else _known.keep((text, types), made, text.text)
    return known


def _made(text: TextClause | TString, types: tuple[tuple[str, Any], ...]) -> TextualSelect:
    for name, type_ in types:
        if not isinstance(type_, TypeEngine) and not (isinstance(type_, type) and issubclass(type_, TypeEngine)):
            raise UsageError(f"types[{name!r}]: expected a type of SQLAlchemy or prefiq_db.types, such as Money")
    return text.columns(**{name: to_instance(type_) for name, type_ in types})


def _checked(shape: Shape, names: tuple[str, ...]) -> Shape:
    def fetch(result: CursorResult[Any]) -> Any:
        unknown = set(names) - set(result.keys() if result.returns_rows else ())
        if unknown:
            raise UsageError(f"types: the statement gives no column {', '.join(map(repr, sorted(unknown)))}")
        return shape.fetch(result)

    return Shape(fetch, shape.finish)
