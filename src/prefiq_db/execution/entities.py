"""ORM classes in a statement: a verb would give their columns, while SQLAlchemy's types promise objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import FromClause
from sqlalchemy.sql.selectable import CompoundSelect

from prefiq_db.errors import UsageError


def refuse_entities(statement: Any) -> None:
    """Raise if *statement* selects a whole ORM class, an alias of one, or a bundle.

    Only a session makes objects, so the rows would hold columns where a type checker expects the object.

    Raises:
        UsageError: the message says what to write instead.
    """
    for column in _columns(statement):
        known = column._annotations
        if "bundle" in known or ("parententity" in known and isinstance(column, FromClause)):
            raise UsageError(
                "statement: it selects a whole ORM class, and only a session makes objects: use db.session(), select "
                "the columns, or give into= a dataclass, a pydantic model or dict"
            )


def _columns(statement: Any) -> Iterable[Any]:
    if isinstance(statement, CompoundSelect):
        return _columns(statement.selects[0])
    of_select: Iterable[Any] = getattr(statement, "_raw_columns", ())
    return of_select or getattr(statement, "_returning", ())
