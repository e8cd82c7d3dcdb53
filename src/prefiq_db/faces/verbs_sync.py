"""The single-statement verbs that ``Database`` and ``Transaction`` share; twin: ``verbs_async``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from prefiq_db.core import CoreVerbs, Params
from prefiq_db.execution.mapping import Into
from prefiq_db.execution.typed import Types
from prefiq_db.reports import ExecuteResult, UpsertResult


class Verbs(Protocol):
    """A class whose core carries out calls; each class lists the verbs that it has.

    A verb deletes its arguments before it raises: error trackers record the local variables of every frame.
    """

    @property
    def _core(self) -> CoreVerbs: ...

    def fetch_all(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> list[Any]:
        """Return every row; an empty list for a statement that returns none.

        *types* gives the types of a text statement's columns: ``types={"amount": Money}``.
        """
        try:
            return self._core.fetch_all(statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    def fetch_one(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> Any:
        """Return the first row, or ``None``."""
        try:
            return self._core.fetch_one(statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    def fetch_value(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> Any:
        """Return the first column of the first row, or ``None``."""
        try:
            return self._core.fetch_value(statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    def execute(self, statement: Any, params: Params = None) -> ExecuteResult:
        """Run a statement and return what it did. Outside a transaction it is committed at once."""
        try:
            return self._core.execute(statement, params)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    def execute_many(self, statement: Any, rows: Iterable[Mapping[str, Any]]) -> int | None:
        """Run a statement once per row, all or nothing; return the row count, ``None`` if unknown."""
        try:
            return self._core.execute_many(statement, rows)
        except BaseException as error:
            del statement, rows
            self._core.hush(error)
            raise

    def upsert(self, table: Any, rows: Any, *, key: Any, update: Any = None, returning: Any = None) -> UpsertResult:
        """Insert *rows*, and update those that are there; all or nothing.

        Args:
            table: a ``Table``, an ORM class, or a table's name.
            rows: one row or many: mappings, dataclasses or pydantic models, all with the same columns.
            key: the columns that may conflict: a primary key, or the columns of a unique constraint or index.
            update: what to update in a row that is there. Default: all given columns but the key. Columns to set to
                the given values; a mapping of columns to values, expressions or functions of the stored and the given
                row (``{"qty": lambda stored, given: stored.qty + given.qty}``); or ``()``: nothing.
            returning: columns to return, in the order of *rows*.

        Raises:
            UsageError: before anything is sent: *key* is no unique key, two rows have the same key, a key is None.
            UniqueViolationError: a row meets another row by another unique key; nothing was changed.
            OutcomeUnknownError: the connection was lost and the rows may be stored; it isn't repeated on a guess.
        """
        try:
            return self._core.upsert(table, rows, key, update, returning)
        except BaseException as error:
            del rows, update
            self._core.hush(error)
            raise
