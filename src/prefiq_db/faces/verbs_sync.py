"""The single-statement verbs that ``Database`` and ``Transaction`` share; twin: ``verbs_async``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from prefiq_db.core import CoreVerbs, Params
from prefiq_db.execution.mapping import Into
from prefiq_db.execution.typed import Types
from prefiq_db.reports import ExecuteResult


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

    def execute(self, statement: Any, params: Params = None, *, last: bool = False) -> ExecuteResult:
        """Run a statement and return what it did. Outside a transaction it is committed at once.

        *last* says that it is the last one of the open transaction, so that COMMIT may travel with it.
        """
        try:
            return self._core.execute(statement, params, last)
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
