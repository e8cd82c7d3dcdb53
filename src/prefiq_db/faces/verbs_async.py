"""The verbs of one statement, once for ``AsyncDatabase`` and ``AsyncTransaction``. The twin is ``verbs_sync``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from prefiq_db.bridge import spawn
from prefiq_db.core import CoreVerbs, Params
from prefiq_db.execution.mapping import Into
from prefiq_db.execution.typed import Types
from prefiq_db.reports import ExecuteResult


class AsyncVerbs(Protocol):
    """Whoever has a core that carries out calls; each class lists which of the verbs are its own.

    A verb drops what it was given before an error leaves it: error trackers record the variables of every frame.
    """

    @property
    def _core(self) -> CoreVerbs: ...

    async def fetch_all(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> list[Any]:
        """Return every row; an empty list for a statement that returns none.

        *types* says how columns of a text statement are read: ``types={"amount": Money}``.
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
        """Run a statement for what it does. Outside a transaction it is one by itself."""
        try:
            return await spawn(self._core.execute, statement, params)
        except BaseException as error:
            del statement, params
            self._core.hush(error)
            raise

    async def execute_many(self, statement: Any, rows: Iterable[Mapping[str, Any]]) -> int | None:
        """Run a statement once per row, all or nothing; return the row count."""
        try:
            return await spawn(self._core.execute_many, statement, rows)
        except BaseException as error:
            del statement, rows
            self._core.hush(error)
            raise
