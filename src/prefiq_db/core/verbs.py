"""The single-statement verbs, shared by databases and explicit ``tx``, sync and async."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

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

    @abstractmethod
    def carry_out(self, call: Call) -> Any:
        """Return the result of a prepared call."""

    async def carry_out_awaited(self, call: Call) -> Any:
        """Return the result of a prepared call, for a task of the event loop."""
        return await spawn(self.carry_out, call)

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

    # --- the calls of the verbs; the async face awaits them ------------------------------------------

    def prepare_fetch_all(self, statement: Any, params: Params, into: Into | None, types: Types | None) -> Call:
        shape = ALL_ROWS if into is None else all_rows(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return self.prepare("fetch_all", statement, params, shape)

    def prepare_fetch_one(self, statement: Any, params: Params, into: Into | None, types: Types | None) -> Call:
        shape = ONE_ROW if into is None else one_row(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return self.prepare("fetch_one", statement, params, shape)

    def prepare_fetch_exactly_one(self, statement: Any, params: Params, into: Into | None, types: Types | None) -> Call:
        shape = EXACTLY_ONE_ROW if into is None else exactly_one_row(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return self.prepare("fetch_exactly_one", statement, params, shape)

    def prepare_fetch_value(self, statement: Any, params: Params, into: Into | None, types: Types | None) -> Call:
        shape = ONE_VALUE if into is None else one_value(into)
        if types is not None:
            statement, shape = with_types(statement, types, shape)
        return self.prepare("fetch_value", statement, params, shape)

    def prepare_execute(self, statement: Any, params: Params, last: bool) -> Call:
        call = self.prepare("execute", statement, params, OUTCOME)
        if last:
            if call.block is None:
                raise UsageError("last: there is no transaction here that could end; use it inside transaction()")
            call.last = True
        return call

    # --- the verbs -----------------------------------------------------------------------------------

    def fetch_all(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> list[Any]:
        rows: list[Any] = self.carry_out(self.prepare_fetch_all(statement, params, into, types))
        return rows

    def fetch_one(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        return self.carry_out(self.prepare_fetch_one(statement, params, into, types))

    def fetch_exactly_one(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        return self.carry_out(self.prepare_fetch_exactly_one(statement, params, into, types))

    def fetch_value(self, statement: Any, params: Params, into: Into | None, types: Types | None = None) -> Any:
        return self.carry_out(self.prepare_fetch_value(statement, params, into, types))

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
        result: ExecuteResult = self.carry_out(self.prepare_execute(statement, params, last))
        return result

    def execute_many(self, statement: Any, rows: Iterable[Mapping[str, Any]]) -> int | None:
        call = self.prepare_many("execute_many", statement, rows)
        count: int | None = 0 if call is None else self.carry_out(call)
        return count

    def batch(self, statements: Iterable[Any], exactly_once: bool) -> list[ExecuteResult]:
        call = self.prepare_batch(statements, exactly_once)
        results: list[ExecuteResult] = [] if call is None else self.carry_out_batch(call)
        return results
