"""The single-statement verbs that ``AsyncDatabase`` and ``AsyncTransaction`` share; twin: ``verbs_sync``."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, overload

from sqlalchemy import Row
from sqlalchemy.sql.selectable import TypedReturnsRows as Typed

from prefiq_db.bridge import spawn
from prefiq_db.core import CoreVerbs, Params, Progress, Request
from prefiq_db.execution.mapping import Into
from prefiq_db.execution.typed import Types
from prefiq_db.faces.statements import AnyRow, Statement, T, Ts, Untyped, V
from prefiq_db.faces.stream_async import AsyncStream
from prefiq_db.reports import BulkResult, ExecuteResult, UpsertResult


class AsyncVerbs(Protocol):
    """A class whose core carries out calls; each class lists the verbs that it has.

    A verb deletes its arguments before it raises: error trackers record the local variables of every frame. The
    overloads say what a type checker knows of its result.
    """

    @property
    def _core(self) -> CoreVerbs: ...
    @property
    def _base(self) -> CoreVerbs: ...  # the same, whoever the tenant is: asking for it never fails

    @overload
    async def fetch_all(
        self, statement: Typed[*Ts], params: Params = None, *, into: None = None, types: Types | None = None
    ) -> list[Row[*Ts]]: ...
    @overload
    async def fetch_all(
        self, statement: Statement, params: Params = None, *, into: None = None, types: Types | None = None
    ) -> list[AnyRow]: ...
    @overload
    async def fetch_all(
        self, statement: Statement, params: Params = None, *, into: type[dict[str, Any]], types: Types | None = None
    ) -> list[dict[str, Any]]: ...
    @overload
    async def fetch_all(
        self, statement: Statement, params: Params = None, *, into: type[T], types: Types | None = None
    ) -> list[T]: ...
    @overload
    async def fetch_all(
        self, statement: Typed[*Ts], params: Params = None, *, into: Callable[[Row[*Ts]], T], types: Types | None = None
    ) -> list[T]: ...
    @overload
    async def fetch_all(
        self, statement: Untyped, params: Params = None, *, into: Callable[[AnyRow], T], types: Types | None = None
    ) -> list[T]: ...
    async def fetch_all(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> list[Any]:
        """Return every row; an empty list for a statement that returns none.

        *types* gives the types of a text statement's columns: ``types={"amount": Money}``.
        """
        try:
            rows: list[Any] = await self._core.fetch_awaited("fetch_all", statement, params, into, types)
            return rows
        except BaseException as error:
            del statement, params
            self._base.hush(error)
            raise

    @overload
    async def fetch_one(
        self, statement: Typed[*Ts], params: Params = None, *, into: None = None, types: Types | None = None
    ) -> Row[*Ts] | None: ...
    @overload
    async def fetch_one(
        self, statement: Statement, params: Params = None, *, into: None = None, types: Types | None = None
    ) -> AnyRow | None: ...
    @overload
    async def fetch_one(
        self, statement: Statement, params: Params = None, *, into: type[dict[str, Any]], types: Types | None = None
    ) -> dict[str, Any] | None: ...
    @overload
    async def fetch_one(
        self, statement: Statement, params: Params = None, *, into: type[T], types: Types | None = None
    ) -> T | None: ...
    @overload
    async def fetch_one(
        self, statement: Typed[*Ts], params: Params = None, *, into: Callable[[Row[*Ts]], T], types: Types | None = None
    ) -> T | None: ...
    @overload
    async def fetch_one(
        self, statement: Untyped, params: Params = None, *, into: Callable[[AnyRow], T], types: Types | None = None
    ) -> T | None: ...
    async def fetch_one(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> Any:
        """Return the first row, or ``None``."""
        try:
            return await self._core.fetch_awaited("fetch_one", statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._base.hush(error)
            raise

    @overload
    async def fetch_exactly_one(
        self, statement: Typed[*Ts], params: Params = None, *, into: None = None, types: Types | None = None
    ) -> Row[*Ts]: ...
    @overload
    async def fetch_exactly_one(
        self, statement: Statement, params: Params = None, *, into: None = None, types: Types | None = None
    ) -> AnyRow: ...
    @overload
    async def fetch_exactly_one(
        self, statement: Statement, params: Params = None, *, into: type[dict[str, Any]], types: Types | None = None
    ) -> dict[str, Any]: ...
    @overload
    async def fetch_exactly_one(
        self, statement: Statement, params: Params = None, *, into: type[T], types: Types | None = None
    ) -> T: ...
    @overload
    async def fetch_exactly_one(
        self, statement: Typed[*Ts], params: Params = None, *, into: Callable[[Row[*Ts]], T], types: Types | None = None
    ) -> T: ...
    @overload
    async def fetch_exactly_one(
        self, statement: Untyped, params: Params = None, *, into: Callable[[AnyRow], T], types: Types | None = None
    ) -> T: ...
    async def fetch_exactly_one(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> Any:
        """Return the only row.

        Raises:
            RowNotFoundError: if there is none.
            TooManyRowsError: if there is more than one.
        """
        try:
            return await self._core.fetch_awaited("fetch_exactly_one", statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._base.hush(error)
            raise

    @overload
    async def fetch_value(
        self, statement: Typed[V, *Ts], params: Params = None, *, into: None = None, types: Types | None = None
    ) -> V | None: ...
    @overload
    async def fetch_value(
        self, statement: Statement, params: Params = None, *, into: None = None, types: Types | None = None
    ) -> Any: ...
    @overload
    async def fetch_value(
        self, statement: Typed[V, *Ts], params: Params = None, *, into: Callable[[V], T], types: Types | None = None
    ) -> T | None: ...
    @overload
    async def fetch_value(
        self, statement: Untyped, params: Params = None, *, into: Callable[[Any], T], types: Types | None = None
    ) -> T | None: ...
    async def fetch_value(
        self, statement: Any, params: Params = None, *, into: Into | None = None, types: Types | None = None
    ) -> Any:
        """Return the first column of the first row, or ``None``."""
        try:
            return await self._core.fetch_awaited("fetch_value", statement, params, into, types)
        except BaseException as error:
            del statement, params
            self._base.hush(error)
            raise

    @overload
    def stream(
        self,
        statement: Typed[*Ts],
        params: Params = None,
        *,
        batch_size: int = 1000,
        into: None = None,
        types: Types | None = None,
    ) -> AsyncStream[Row[*Ts]]: ...
    @overload
    def stream(
        self,
        statement: Statement,
        params: Params = None,
        *,
        batch_size: int = 1000,
        into: None = None,
        types: Types | None = None,
    ) -> AsyncStream[AnyRow]: ...
    @overload
    def stream(
        self,
        statement: Statement,
        params: Params = None,
        *,
        batch_size: int = 1000,
        into: type[dict[str, Any]],
        types: Types | None = None,
    ) -> AsyncStream[dict[str, Any]]: ...
    @overload
    def stream(
        self,
        statement: Statement,
        params: Params = None,
        *,
        batch_size: int = 1000,
        into: type[T],
        types: Types | None = None,
    ) -> AsyncStream[T]: ...
    @overload
    def stream(
        self,
        statement: Typed[*Ts],
        params: Params = None,
        *,
        batch_size: int = 1000,
        into: Callable[[Row[*Ts]], T],
        types: Types | None = None,
    ) -> AsyncStream[T]: ...
    @overload
    def stream(
        self,
        statement: Untyped,
        params: Params = None,
        *,
        batch_size: int = 1000,
        into: Callable[[AnyRow], T],
        types: Types | None = None,
    ) -> AsyncStream[T]: ...
    def stream(
        self,
        statement: Any,
        params: Params = None,
        *,
        batch_size: int = 1000,
        into: Into | None = None,
        types: Types | None = None,
    ) -> AsyncStream[Any]:
        """Return a stream of the rows of a query, for any number of them; use it as a block.

        At most *batch_size* rows are in memory at a time. Outside a transaction the stream has a read-only one of its
        own. A time limit is one for each batch.
        """
        try:
            return AsyncStream(self._core.stream(statement, params, batch_size, into, types))
        except BaseException as error:
            del statement, params
            self._base.hush(error)
            raise

    async def execute(self, statement: Any, params: Params = None, *, last: bool = False) -> ExecuteResult:
        """Run a statement and return what it did. Outside a transaction it is committed at once.

        *last* says that it is the last one of the open transaction, so that COMMIT may travel with it.
        """
        try:
            return await self._core.execute_awaited(statement, params, last)
        except BaseException as error:
            del statement, params
            self._base.hush(error)
            raise

    async def execute_many(self, statement: Any, rows: Iterable[Mapping[str, Any]]) -> int | None:
        """Run a statement once per row, all or nothing; return the row count, ``None`` if unknown."""
        try:
            return await spawn(self._core.execute_many, statement, rows)
        except BaseException as error:
            del statement, rows
            self._base.hush(error)
            raise

    async def batch(
        self, statements: Iterable[Statement | tuple[Statement, Params]], *, exactly_once: bool = False
    ) -> list[ExecuteResult]:
        """Run statements that don't need each other's results, all or nothing; return the result of each.

        A statement is a text, a Core construct, or a pair of one and its params. PostgreSQL and MariaDB get all of
        them, BEGIN and COMMIT in one message. In a transaction they run in a savepoint. The time limit of a statement
        is the limit of all of them together.

        Args:
            exactly_once: find out whether a batch without a reply was committed, and run it again only if it wasn't.

        Raises:
            PrefiqDbError: nothing was changed; ``statement_index`` is the number of the statement that failed.
            OutcomeUnknownError: no reply came: it may be committed.
            ResultsLostError: it is committed, but its results can't be had.
        """
        try:
            return await spawn(self._core.batch, statements, exactly_once)
        except BaseException as error:
            del statements
            self._base.hush(error)
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
        """Insert many rows, all or nothing, the fastest way that the database has; see docs/guide/bulk-insert.md.

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
            self._base.hush(error)
            raise

    async def upsert(
        self, table: Any, rows: Any, *, key: Any, update: Any = None, returning: Any = None
    ) -> UpsertResult:
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
            return await spawn(self._core.upsert, table, rows, key, update, returning)
        except BaseException as error:
            del rows, update
            self._base.hush(error)
            raise
