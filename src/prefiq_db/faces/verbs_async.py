"""The single-statement verbs that ``AsyncDatabase`` and ``AsyncTransaction`` share; twin: ``verbs_sync``."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from prefiq_db.bridge import spawn
from prefiq_db.core import CoreVerbs, Params, Progress, Request
from prefiq_db.execution.mapping import Into
from prefiq_db.execution.typed import Types
from prefiq_db.reports import BulkResult, ExecuteResult


class AsyncVerbs(Protocol):
    """A class whose core carries out calls; each class lists the verbs that it has.

    A verb deletes its arguments before it raises: error trackers record the local variables of every frame.
    """

    @property
    def _core(self) -> CoreVerbs: ...

    async def fetch_all(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> list[Any]:
        """Return every row; an empty list for a statement that returns none.

        *types* gives the types of a text statement's columns: ``types={"amount": Money}``.
        """
        try:
            return await spawn(self._core.fetch_all, statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    async def fetch_one(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> Any:
        """Return the first row, or ``None``."""
        try:
            return await spawn(self._core.fetch_one, statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    async def fetch_value(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> Any:
        """Return the first column of the first row, or ``None``."""
        try:
            return await spawn(self._core.fetch_value, statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    async def execute(self, statement: Any, params: Params = None) -> ExecuteResult:
        """Run a statement and return what it did. Outside a transaction it is committed at once."""
        try:
            return await spawn(self._core.execute, statement, params)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    async def execute_many(self, statement: Any, rows: Iterable[Mapping[str, Any]]) -> int | None:
        """Run a statement once per row, all or nothing; return the row count, ``None`` if unknown."""
        try:
            return await spawn(self._core.execute_many, statement, rows)
        except BaseException as error:
            del statement, rows
            self._core.hush(error)
            raise

    async def bulk_insert(
        self,
        table: Any,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        columns: Sequence[Any] | None = None,
        on_conflict: Literal["error", "ignore", "update"] = "error",
        progress: Progress | None = None,
    ) -> BulkResult:
        """Insert many rows, all or nothing, the fastest way that the database has; see docs/usage.md.

        Args:
            table: a ``Table``, an ORM class, or a name such as ``"item"`` or ``"sales.item"``.
            rows: any iterable or async iterable of mappings, dataclasses, pydantic models, or with *columns* of tuples.
                They are taken in chunks; the whole is never in memory. An error it raises comes out unchanged.
            columns: the columns, in the order of each tuple's values; of other rows, those to take.
            on_conflict: what happens to a row whose unique key is there already: ``"error"``, ``"ignore"`` (it is left
                out), or ``"update"`` (its other columns replace the old ones).
            progress: called with the number of rows done, at most about ten times a second, and at the end.

        Raises:
            PrefiqDbError: nothing was inserted. For a bad row the message has its index, as in ``rows[3]``, and the
                column where it is known; never a value.
            OutcomeUnknownError: the connection was lost at COMMIT.
        """
        try:
            return await spawn(self._core.bulk_insert, Request(table, rows, columns, on_conflict, progress))
        except BaseException as error:
            del rows
            self._core.hush(error)
            raise
