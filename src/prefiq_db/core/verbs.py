"""The single-statement verbs, shared by databases and explicit ``tx``, sync and async."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from prefiq_db.bridge import spawn
from prefiq_db.call import Batch, Call, Shape
from prefiq_db.core.bulk_insert import Request
from prefiq_db.core.streams import StreamCore
from prefiq_db.errors import UsageError
from prefiq_db.execution.mapping import Into, mapper
from prefiq_db.execution.row_batches import BatchReader, check_batch_size
from prefiq_db.execution.shapes import (
    ALL_ROWS,
    EXACTLY_ONE_ROW,
    ONE_ROW,
    ONE_VALUE,
    OUTCOME,
    all_rows,
    exactly_one_row,
    one_row,
    one_value,
)
from prefiq_db.execution.typed import Types, with_types
from prefiq_db.reports import BulkResult, ExecuteResult, UpsertResult

Params = Mapping[str, Any] | None


#: by verb: what it reads, and how with ``into=``
_FETCHES: Final[Mapping[str, tuple[Shape, Callable[[Into], Shape]]]] = {
    "fetch_all": (ALL_ROWS, all_rows),
    "fetch_one": (ONE_ROW, one_row),
    "fetch_exactly_one": (EXACTLY_ONE_ROW, exactly_one_row),
    "fetch_value": (ONE_VALUE, one_value),
}


class CoreVerbs(ABC):
    """The verbs of a class that prepares calls and carries them out."""

    @abstractmethod
    def prepare(self, verb: str, statement: Any, params: Any, shape: Shape) -> Call:
        """Return a call of *verb*, ready to be carried out; never waits."""

    @abstractmethod
    def prepare_many(self, verb: str, statement: Any, rows: Iterable[Mapping[str, Any]]) -> Call | None:
        """Return a call that runs *statement* once per row; ``None`` if there are no rows."""

    @abstractmethod
    def prepare_stream(
        self, statement: Any, params: Params, reader: BatchReader, shape: Shape, make: Callable[[Any], Any] | None
    ) -> StreamCore:
        """Return a stream that isn't open yet, with its arguments checked; never waits."""

    def run(self, verb: str, statement: Any, params: Any, shape: Shape) -> Any:
        """Return the result of a call of *verb*, prepared and carried out."""
        return self.carry_out(self.prepare(verb, statement, params, shape))

    @abstractmethod
    def carry_out(self, call: Call) -> Any:
        """Return the result of a prepared call."""

    async def run_awaited(self, verb: str, statement: Any, params: Any, shape: Shape) -> Any:
        """Return the result of a call of *verb*, for a task of the event loop."""
        return await spawn(self.run, verb, statement, params, shape)

    @abstractmethod
    def prepare_batch(self, statements: Iterable[Any], exactly_once: bool) -> Batch | None:
        """Return a call of ``batch``, ready to be carried out; ``None`` if there are no statements."""

    @abstractmethod
    def carry_out_batch(self, batch: Batch) -> Any:
        """Return the results of a prepared batch."""

    @abstractmethod
    def bulk_insert(self, request: Request) -> BulkResult:
        """Insert many rows."""

    @abstractmethod
    def upsert(self, table: Any, rows: Any, key: Any, update: Any, returning: Any) -> UpsertResult:
        """Insert *rows*, and update those that are there."""

    @abstractmethod
    def hush(self, error: BaseException) -> None:
        """Remove the verb's arguments from the frames that *error* passed through."""

    def fetch_all(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> list[Any]:
        shape = ALL_ROWS if into is None else all_rows(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        rows: list[Any] = self.run("fetch_all", statement, params, shape)
        return rows

    def fetch_one(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        shape = ONE_ROW if into is None else one_row(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return self.run("fetch_one", statement, params, shape)

    def fetch_exactly_one(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        shape = EXACTLY_ONE_ROW if into is None else exactly_one_row(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return self.run("fetch_exactly_one", statement, params, shape)

    def fetch_value(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        shape = ONE_VALUE if into is None else one_value(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return self.run("fetch_value", statement, params, shape)

    async def fetch_awaited(
        self, verb: str, statement: Any, params: Params, into: Into | None, types: Types | None
    ) -> Any:
        """Return what the *verb* of that name returns, for a task of the event loop."""
        plain, made = _FETCHES[verb]
        shape = plain if into is None else made(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return await self.run_awaited(verb, statement, params, shape)

    def stream(
        self, statement: Any, params: Params, batch_size: int, into: Into | None, types: Types | None = None
    ) -> StreamCore:
        reader = BatchReader(check_batch_size(batch_size))
        make = None if into is None else mapper(into)
        shape = replace(reader.shape, typed=into is None or make is into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return self.prepare_stream(statement, params, reader, shape, make)

    def execute(self, statement: Any, params: Params, last: bool = False) -> ExecuteResult:
        result: ExecuteResult
        if not last:
            result = self.run("execute", statement, params, OUTCOME)
            return result
        call = self.prepare("execute", statement, params, OUTCOME)
        if call.block is None:
            raise UsageError("last: there is no transaction here that could end; use it inside transaction()")
        call.last = True
        result = self.carry_out(call)
        return result

    async def execute_awaited(self, statement: Any, params: Params, last: bool) -> ExecuteResult:
        """Return what :meth:`execute` does, for a task of the event loop."""
        result: ExecuteResult
        if last:
            result = await spawn(self.execute, statement, params, last)
        else:
            result = await self.run_awaited("execute", statement, params, OUTCOME)
        return result

    def execute_many(self, statement: Any, rows: Iterable[Mapping[str, Any]]) -> int | None:
        call = self.prepare_many("execute_many", statement, rows)
        count: int | None = 0 if call is None else self.carry_out(call)
        return count

    def batch(self, statements: Iterable[Any], exactly_once: bool) -> list[ExecuteResult]:
        call = self.prepare_batch(statements, exactly_once)
        results: list[ExecuteResult] = [] if call is None else self.carry_out_batch(call)
        return results
