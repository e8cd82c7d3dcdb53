"""``bulk_insert()``: take the given rows chunk by chunk, and send each the fastest way that is as good as ``insert()``.

A chunk is one statement with its own time limit; while rows are waited for, nothing runs. What the fast way refuses is
undone and sent as INSERTs, which decide: they either store the rows or name the one that can't be stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from sqlalchemy import Table
from sqlalchemy import insert as plain_insert
from sqlalchemy.exc import NoSuchTableError, SAWarning, UnreflectableTableError

from prefiq_db.call import Call, Shape, Way
from prefiq_db.core.bulk_source import BulkSource
from prefiq_db.core.reading import ReadingView
from prefiq_db.deadline import own_deadline
from prefiq_db.dialects.bulk import BulkInsert, Carrier, OnConflict
from prefiq_db.dialects.upsert_sql import Wanted
from prefiq_db.errors import ErrorKind, PrefiqDbError, SchemaError, StatementRefusedError, SubKind, UsageError
from prefiq_db.execution.bound_rows import BoundInsert, in_place, locate
from prefiq_db.execution.given_rows import GivenRows
from prefiq_db.execution.row_chunks import CARRIER, Counts, RowChunk, SendChunk, Sent
from prefiq_db.execution.shapes import ROW_COUNT
from prefiq_db.execution.target_tables import Target, reflect_on, update_key
from prefiq_db.execution.upsert_request import check_key, has_key
from prefiq_db.hooks.calls import CALL_EVENTS, tell_call
from prefiq_db.reports import BulkResult
from prefiq_db.transaction import Block, Savepoint, TransactionOptions

Progress = Callable[[int], Any]

# Often enough for a progress bar.
_TELL_AFTER_SECONDS: Final = 0.1

#: Errors that one row has and another may not have.
_OF_ROWS: Final = frozenset(
    {
        *(ErrorKind.UNIQUE, ErrorKind.FOREIGN_KEY, ErrorKind.NOT_NULL, ErrorKind.CHECK, ErrorKind.EXCLUSION),
        *(ErrorKind.INTEGRITY, ErrorKind.DATA, ErrorKind.USAGE),
    }
)
#: Errors that INSERTs may not have, or tell better.
_ANOTHER_WAY: Final = _OF_ROWS | {
    *(ErrorKind.UNSUPPORTED, ErrorKind.SYNTAX, ErrorKind.SCHEMA, ErrorKind.PERMISSION, ErrorKind.UNKNOWN),
}

#: The table may be another one by now than what we know of it.
_TABLE_CHANGED: Final = frozenset(
    {ErrorKind.SCHEMA, ErrorKind.SYNTAX, ErrorKind.UNSUPPORTED, ErrorKind.USAGE, ErrorKind.UNIQUE}
)


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of one ``bulk_insert()``. Its ``repr`` shows none of them."""

    table: Any
    rows: Any
    columns: Any = None
    on_conflict: Any = "error"
    progress: Progress | None = None

    def __repr__(self) -> str:
        return "<bulk_insert>"


def bulk_insert(database: ReadingView, block: Block | None, request: Request) -> BulkResult:
    """Insert the rows of *request* in *block*, in the ambient transaction, or in one of its own."""
    started = time.perf_counter()
    given = database.admit()
    if request.on_conflict not in get_args(OnConflict):
        raise UsageError("on_conflict: expected 'error', 'ignore' or 'update'")
    if request.progress is not None and not callable(request.progress):
        raise UsageError("progress: expected a function that takes the number of rows done")
    call = Call("bulk_insert", plain_insert, None, ROW_COUNT, given)  # type: ignore[arg-type]  # replaced before use
    if block is None:
        scope = database.ambient()
        call.way, block = (Way.OWN_TRANSACTION, None) if scope is None else (Way.AMBIENT, scope.blocks[-1])
    else:
        database.check_tenant(given, block)
        call.way = Way.EXPLICIT
    if block is not None and given.read_only and not block.root.options.read_only:
        raise StatementRefusedError(
            "read_only: bulk_insert writes, and the server would let it: the open transaction isn't read-only; run it "
            "outside the read-only scope"
        )
    work = _Work(database, call, block, request, started)
    try:
        if database.hooks.wanted.isdisjoint(CALL_EVENTS):
            return work.run(call)
        return tell_call(database.hooks, database.name, call, work.run)
    finally:
        # The connection knows its last call until the next one.
        call.statement = call.params = call.block = None  # type: ignore[assignment]  # nobody sends it again


class _Work:
    """One call, with all its attempts."""

    def __init__(
        self, database: ReadingView, call: Call, block: Block | None, request: Request, started: float
    ) -> None:
        self.database = database
        self.call = call
        self.outer = block
        self.request = request
        self.started = started
        self.tables = database.tables(block)

    def run(self, call: Call) -> BulkResult:
        database = self.database
        target, source = self._source()
        call.attempts += 1
        if not source.has_rows:
            self._tell(0)
            return BulkResult(0, 0, 0, 0, time.perf_counter() - self.started)
        try:
            return self._insert_all(_Job(database, call, target, source, self.request.on_conflict))
        except PrefiqDbError as error:
            if error.kind in _TABLE_CHANGED:
                self.tables.forget(target)
            raise

    def _insert_all(self, job: _Job) -> BulkResult:
        database = self.database

        def attempt(tx: Block) -> BulkResult:
            job.look_at_the_table(tx)
            return self._insert(tx, job)

        if self.outer is None:
            return database.in_transaction(attempt, may_repeat=job.source.may_repeat, by_deadline=False)  # type: ignore[no-any-return]  # it returns what attempt() does
        inner = Savepoint(database.instance, TransactionOptions(), self.outer.root.scope)
        return database.attempt(inner, attempt)  # type: ignore[no-any-return]  # likewise

    def _source(self) -> tuple[Target, BulkSource]:
        """Return the table and its rows; a column that what we remember of the table lacks may have been added."""
        request, runtime = self.request, self.database.runtime
        target = self._target()
        try:
            return target, BulkSource(lambda: GivenRows(request.rows, request.columns, target, runtime))
        except UsageError as error:
            self.tables.forget(target)
            # With columns= no row was taken yet.
            may_look = isinstance(request.rows, Sequence) or request.columns is not None
            if not (target.is_reflected and error.sub_kind is SubKind.MISSING and may_look):
                raise
        again = self._target()
        return again, BulkSource(lambda: GivenRows(request.rows, request.columns, again, runtime))

    def _target(self) -> Target:
        database, table = self.database, self.request.table
        tables = self.tables

        def resolve(tx: Block) -> Target:
            return tables.resolve(table, lambda schema, name: _reflected(database, tx, schema, name))

        if self.outer is not None:
            return resolve(self.outer)
        if not isinstance(table, str):
            return tables.resolve(table, _nothing_to_look_up)
        found: Target = database.in_transaction_here(resolve, TransactionOptions(read_only=True))
        return found

    def _insert(self, tx: Block, job: _Job) -> BulkResult:
        counts = Counts()
        told_at = time.monotonic()
        done = 0
        for chunk in job.chunks():
            counts.add(job.send(tx, chunk))
            done = chunk.first_row + len(chunk)
            if (now := time.monotonic()) - told_at >= _TELL_AFTER_SECONDS:
                told_at = now
                self._tell(done)
        self._tell(done)
        return BulkResult(done, counts.inserted, counts.updated, counts.ignored, time.perf_counter() - self.started)

    def _tell(self, done: int) -> None:
        if self.request.progress is not None:
            self.database.runtime.call(self.request.progress, done)


@dataclass(frozen=True, slots=True)
class _Hint:
    """The row of a chunk that was refused, by its index in it, and the column; ``None``: unknown."""

    row: int | None = None
    column: str | None = None


_NO_HINT: Final = _Hint()


class _Job:
    """Sends the chunks of one call."""

    def __init__(
        self, database: ReadingView, call: Call, target: Target, source: BulkSource, on_conflict: OnConflict
    ) -> None:
        self.database = database
        self.call = call
        self.target = target
        self.source = source
        self.dialect: Any = database.road.dialect
        given = [target.table.c[key] for key in source.keys]
        statement: Any = target.table.insert()
        key: tuple[Any, ...] = ()
        if on_conflict != "error":
            key = update_key(target, source.keys) if on_conflict == "update" else ()
            updated = [column for column in given if column not in key]
            statement = self.dialect.conflicting(target.table, on_conflict, updated, key)
        self.bound = BoundInsert(statement, source.keys, self.dialect)
        #: what the last failure told of its row, and whether its error names the row already
        self.hint, self.is_located = _NO_HINT, False
        self.insert = BulkInsert(
            table=target.table,
            columns=self.bound.columns,
            on_conflict=on_conflict,
            key=key,
            compiled=self.bound.compiled,
            number=call.id,
        )

    def look_at_the_table(self, tx: Block) -> None:
        """Ask the database, once for each table, what the table is like: that decides about the fast way.

        Raises:
            UsageError: if it lacks the key of an update that doesn't name the key.
        """
        database, dialect, insert = self.database, self.dialect, self.insert
        if not dialect.asks_for_the_table:
            return
        tables = database.tables(tx)

        def stored() -> Table:
            return tables.reflected(self.target, lambda schema, name: _reflected(database, tx, schema, name))

        try:
            self.insert = replace(insert, stored=stored(), notes={})
            if insert.on_conflict != "update" or not dialect.upserts.names_no_key:
                return
            wanted = Wanted(insert.table, tuple(column.key for column in insert.key), {})
            if not has_key(wanted, stored()):
                tables.forget(self.target)
                check_key(wanted, stored())
        except (SchemaError, UnreflectableTableError, SAWarning):
            pass  # INSERT says what is wrong with it

    def chunks(self) -> Iterator[RowChunk]:
        for first, rows in self.source.chunks():
            yield RowChunk(self.bound, rows, first)

    def send(self, tx: Block, chunk: RowChunk) -> Carrier | Sent:
        """Insert *chunk*, or raise the error of its first bad row, with the row's index."""
        if not self.bound.is_plain:
            return self._surely(tx, chunk, self._as_insert)
        if not self.dialect.chunks_need_savepoints:
            return self._run(tx, chunk, self._insert_carrier)
        try:
            sent: Carrier = self._behind_savepoint(tx, lambda block: self._quickly(block, chunk))
            return sent
        except _DoubtError:
            hint = _NO_HINT
        except PrefiqDbError as error:
            if error.kind not in _ANOTHER_WAY or self.is_located:
                raise
            hint = self.hint
        return self._surely(tx, chunk, self._as_inserts, hint)

    def _quickly(self, block: Block, chunk: RowChunk) -> Carrier:
        carrier = self._run(block, chunk, self._fast_carrier)
        if carrier.is_in_doubt:
            raise _DoubtError("bulk_insert: the server had something to say about a row")
        return carrier

    def _surely(
        self, tx: Block, chunk: RowChunk, send: Callable[[Block, RowChunk], Carrier | Sent], hint: _Hint = _NO_HINT
    ) -> Carrier | Sent:
        """Send *chunk* by INSERTs; when that fails, send ever smaller parts of it until the bad row is alone.

        *hint* is a row that another way refused, and its column.
        """
        if hint.row is None:
            try:
                sent: Carrier | Sent = self._behind_savepoint(tx, lambda block: send(block, chunk))
                return sent
            except PrefiqDbError as error:
                if error.kind not in _OF_ROWS or self.is_located:
                    raise
                failure = error
            if len(chunk) == 1:
                raise in_place(failure, chunk.first_row, hint.column)
        middle = len(chunk) // 2 if hint.row is None else hint.row
        counts = Counts()
        parts = [(0, middle), (middle, len(chunk))]
        if hint.row is not None:
            parts = [(0, middle), (middle, middle + 1), (middle + 1, len(chunk))]
        for start, end in parts:
            if start < end:
                column = hint.column if (start, end) == (hint.row, middle + 1) else None
                counts.add(self._surely(tx, chunk.part(start, end), send, _Hint(None, column)))
        return Sent(counts.inserted, counts.updated, counts.ignored)

    def _behind_savepoint(self, tx: Block, body: Callable[[Block], Any]) -> Any:
        return self.database.attempt(Savepoint(tx.instance, TransactionOptions(), tx.root.scope), body)

    # --- statements ------------------------------------------------------------------------------

    def _fast_carrier(self, rows: Any, context: Any) -> Carrier:
        fast: Carrier | None = self.dialect.fast_carrier(self.insert, rows, context)
        return self._insert_carrier(rows, context) if fast is None else fast

    def _insert_carrier(self, rows: Any, context: Any) -> Carrier:
        carrier: Carrier = self.dialect.insert_carrier(self.insert)
        return carrier

    def _as_inserts(self, block: Block, chunk: RowChunk) -> Carrier:
        return self._run(block, chunk, self._insert_carrier)

    def _as_insert(self, block: Block, chunk: RowChunk) -> Sent:
        """Let SQLAlchemy's own ``insert()`` send the rows."""
        count = self._send(block, self.bound.statement, chunk.as_params(), ROW_COUNT)
        on_conflict, rows = self.insert.on_conflict, len(chunk)
        if on_conflict == "error":
            return Sent(rows, 0, 0)
        if on_conflict == "ignore" and self.dialect.counts_what_it_ignores and count is not None:
            return Sent(count, 0, rows - count)
        return Sent(None, None, None)

    def _run(self, block: Block, chunk: RowChunk, choose: Any) -> Carrier:
        sending = SendChunk(chunk, choose)
        try:
            carrier: Carrier = self._send(block, sending, None, CARRIER)
        except PrefiqDbError as error:
            if self.bound.failed_at is not None:
                self.is_located = True
                locate(self.bound, error, chunk.first_row)
            elif sending.carrier is not None and sending.carrier.failed_at is not None:
                self.hint = _Hint(sending.carrier.failed_at, sending.carrier.failed_column)
                if sending.carrier.is_sure and error.kind in _OF_ROWS:
                    self.is_located = True
                    in_place(error, chunk.first_row + sending.carrier.failed_at, sending.carrier.failed_column)
            raise
        return carrier

    def _send(self, block: Block, statement: Any, params: Any, shape: Shape) -> Any:
        self.hint, self.is_located = _NO_HINT, False
        call = self.call
        call.statement, call.params, call.shape = statement, params, shape
        if call.given.timeout is not None:  # for each chunk anew
            call.deadline = own_deadline(call.given.timeout)
        return block.run(call, explicit=True)


class _DoubtError(UsageError):
    """The rows went in, but perhaps not as ``insert()`` stores them; undone, and never seen by a caller."""


def _reflected(database: ReadingView, tx: Block, schema: str | None, name: str) -> Table:
    """Read a table on the connection of *tx*, which sees what this transaction has created."""
    tx.check_connected()
    reflect = reflect_on(tx.connection)

    def look() -> Table | None:
        try:
            return reflect(schema, name)
        except NoSuchTableError:
            return None

    with tx.scope.used():
        table = database.road.border.cross(look)
    if table is None:
        raise NoSuchTableError(name)
    return table


def _nothing_to_look_up(schema: str | None, name: str) -> Table:
    raise AssertionError("only a name is looked up")
