"""Replacements for the database while a revision is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData

_COMMENTS: Final = re.compile(r"\A(?:\s|--[^\n]*\n|/\*.*?\*/)+", re.S)


def bare(sql: str) -> str:
    """Return a statement without the blanks and comments before it."""
    return _COMMENTS.sub("", sql).strip()


class Statements:
    """The output of Alembic's offline mode: one call, one statement."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, text: str) -> None:
        statement = bare(text).rstrip(";")
        if statement:
            self.texts.append(statement)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


class _NoRows(IteratorResult[Any]):
    """The result of every query that a revision sends."""

    rowcount = 0
    inserted_primary_key = ()

    def __init__(self) -> None:
        super().__init__(SimpleResultMetaData(("none",)), iter(()))


class Bind:
    """Replaces the connection that ``op.get_bind()`` returns."""

    def __init__(self, note: Callable[[Any], None], dialect: sa.Dialect) -> None:
        self._note = note
        self.dialect = dialect

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> _NoRows:
        self._note(statement)
        return _NoRows()

    def scalar(self, statement: Any, *args: Any, **kwargs: Any) -> None:
        self.execute(statement)

    def scalars(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        return self.execute(statement).scalars()

    def exec_driver_sql(self, statement: str, *args: Any, **kwargs: Any) -> _NoRows:
        return self.execute(statement)

    def execution_options(self, **options: Any) -> Bind:
        return self

    def begin(self) -> Any:
        return nullcontext(self)

    begin_nested = begin


class BatchImpl:
    """Adds the table's name for a batch's operations; the rest is the database's own impl."""

    def __init__(self, impl: Any, table: str, schema: str | None) -> None:
        self._impl, self.table_name, self.schema = impl, table, schema

    def __getattr__(self, name: str) -> Any:
        return getattr(self._impl, name)
