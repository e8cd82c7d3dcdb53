"""A stream: opened once, read batch by batch, closed once. One state machine for both worlds."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from prefiq_db.call import Call, Way
from prefiq_db.config import NO_RETRY
from prefiq_db.core.reading import ReadingView, all_read
from prefiq_db.core.stream_life import StreamLife
from prefiq_db.core.transactions import transaction_repeatable
from prefiq_db.deadline import own_deadline
from prefiq_db.errors import PrefiqDbError
from prefiq_db.execution.row_batches import BatchReader
from prefiq_db.hooks.calls import SUCCEEDED, judged
from prefiq_db.transaction import Block, Outcome, ReadBlock, TransactionOptions

logger = logging.getLogger("prefiq_db.database")

_READ_ONLY: Final = TransactionOptions(read_only=True)


class ReadStream(Protocol):
    """What a stream of the public API needs behind it, whatever it reads."""

    @property
    def is_begun(self) -> bool: ...

    @property
    def is_over(self) -> bool: ...

    def open(self) -> None: ...

    def next_batch(self) -> tuple[list[Any], Callable[[Any], Any] | None]: ...

    def close(self, error: BaseException | None = None) -> None: ...

    def abandon(self) -> None: ...

    def hush(self, error: BaseException) -> None: ...


class StreamCore(StreamLife):
    """One stream of *call*, whose rows *reader* reads.

    Args:
        make: converts each row; ``None`` gives the rows themselves.
        place: returns the block to read in, or ``None`` to begin a transaction; asked when the stream is opened.
    """

    _database: ReadingView
    _reads = "rows"
    _cut_off = "the stream is closed: the transaction or savepoint that it read in has ended"

    def __init__(
        self,
        database: ReadingView,
        call: Call,
        reader: BatchReader,
        make: Callable[[Any], Any] | None,
        place: Callable[[Call], Block | None],
    ) -> None:
        super().__init__(database, call)
        self._reader = reader
        self._make = make
        self._place = place
        self._block: Block | None = None
        self._owns_block = False

    # --- open ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Send the statement and fetch the first batch; where the stream has its own transaction, begin that first.

        Until a row was handed out, its own transaction is tried again after an error that may pass.
        """
        self._begin_to_open()
        database, call = self._database, self._call
        try:
            with self._alone():
                database.check_usable()
                rows = self._begin(self._place(call))
                self._took(rows)
        except BaseException as error:
            self._finish(error)
            raise
        finally:
            # As after every call: the connection knows its last one, and must not keep what the caller gave it. Nor our
            # reader, which knows the connection: one that is dropped unclosed would stay checked out.
            del call.statement, call.params, call.shape

    def _begin(self, block: Block | None) -> list[Any]:
        if block is not None:
            self._call.attempts += 1
            return self._read_in(block, self._first_batch(block, is_own=False))
        database, given = self._database, self._call.given
        database.check_same_tenant(given)
        options = database.with_overrides(replace(_READ_ONLY, schema=database.schema_of(given)))
        numbers = itertools.count()

        def read(view: ReadingView) -> list[Any]:
            is_reader = view.instance.node is not None
            policy = NO_RETRY if is_reader else None
            retrier = view.retrier(given, lambda error: transaction_repeatable(error, options), policy)
            rows: list[Any] = retrier.run(lambda: self._attempt(view, options, next(numbers)))
            return rows

        rows = (
            database.read(
                given,
                read,
                leaves=lambda error: transaction_repeatable(error, options),
                deadline=own_deadline(given.timeout),
            )
            if database.reads_on_replica(given) and all_read([self._call], database.road.dialect)
            else read(database)
        )
        database.instance.retry_budget.successes += 1
        return rows

    def _attempt(self, view: ReadingView, options: TransactionOptions, number: int) -> list[Any]:
        self._call.attempts += 1
        block = ReadBlock(view.instance, options)
        block.retry_number = number
        kept = False
        try:
            block.begin()
            try:
                rows = self._first_batch(block, is_own=True)
            except BaseException as error:
                if block.outcome is Outcome.ACTIVE:
                    block.end(error)
                raise
            self._owns_block = kept = True
            return self._read_in(block, rows)
        finally:
            if not kept:
                block.abandon()

    def _first_batch(self, block: Block, *, is_own: bool) -> list[Any]:
        begin = self._reader.begin(block.instance.road)
        try:
            return block.use(self._call, begin, explicit=is_own or self._is_explicit)
        except PrefiqDbError:
            if block.outcome is Outcome.ACTIVE:
                self._close_reader(block, is_last=is_own)
            raise

    def _read_in(self, block: Block, rows: list[Any]) -> list[Any]:
        self._block = block
        self._is_open = True
        if not self._owns_block:
            block.open_streams.append(self)
        return rows

    @property
    def _is_explicit(self) -> bool:
        return self._call.way is not Way.AMBIENT

    # --- read ------------------------------------------------------------------------------------

    def next_batch(self) -> tuple[list[Any], Callable[[Any], Any] | None]:
        """Return the next rows, none at the end, and what makes a row of each when it is taken, if they aren't yet.

        Raises:
            UsageError: before the stream was opened.
            ClosedError: after it was closed, or after an error.
            TransactionBusyError: while another task or thread reads from it.
        """
        with self._alone():
            self._check_gives()
            rows, self._ready = self._ready, None
            if rows is None and self._is_open:
                rows = self._fetch()
            make_row = self._reader.make_row
            if self._make is None:
                return rows or [], make_row
            return self._converted(rows or [], make_row), None

    def _fetch(self) -> list[Any]:
        assert self._block is not None
        try:
            rows = self._block.use(self._call, self._reader.next, explicit=self._is_explicit)
            self._took(rows)
        except BaseException as error:
            self._finish(error)
            raise
        self._ready = None
        return rows

    def _converted(self, rows: list[Any], make_row: Callable[[Any], Any] | None) -> list[Any]:
        """Convert *rows*: the caller's own code, whose errors are the caller's own."""
        make = self._make
        assert make is not None
        try:
            return list(map(make, rows if make_row is None else map(make_row, rows)))
        except BaseException as error:
            self._finish(error, of_ours=False)
            raise

    def _took(self, rows: list[Any]) -> None:
        self._ready, self._refusal = rows, None
        if self._reader.is_complete:
            # The connection is free while the consumer works on the last batch.
            self._finish(None)

    # --- close -----------------------------------------------------------------------------------

    def _shut_while_used(self) -> None:
        if self._owns_block:
            self.abandon()

    def abandon(self) -> None:
        """Clean up after an interruption of :meth:`open` or :meth:`close`; does nothing if that has ended normally."""
        block, was_open = self._block, self._is_open
        self._is_open = False
        if block is None or not was_open:
            return
        if self in block.open_streams:
            block.open_streams.remove(self)
        if self._owns_block:
            block.abandon()
        elif not block.is_over:
            block.scope.doubt()  # its cursor may be in the middle of a reply

    def _finish(self, error: BaseException | None, *, of_ours: bool = True) -> None:
        """Give everything back and report the end, once; *of_ours* if *error* is from the database."""
        if error is not None:
            self._refuse_after_failure()
        met = error if of_ours else None
        try:
            if self._is_open:
                self._release(error)
        except BaseException as failure:
            met = met or failure
            raise
        finally:
            if self._is_open:  # the release was interrupted
                self.abandon()
            self._tell(met)

    def _release(self, error: BaseException | None) -> None:
        block, owns = self._block, self._owns_block
        assert block is not None
        active = block.outcome is Outcome.ACTIVE
        if active:
            self._close_reader(block, is_last=owns)
        if self in block.open_streams:
            block.open_streams.remove(self)
        if owns and active:
            block.end(error)
        self._is_open = False

    def _close_reader(self, block: Block, *, is_last: bool) -> None:
        try:
            with block.scope.used():
                self._reader.close(block.instance.statement_timeout_seconds, is_last=is_last)
        except PrefiqDbError as failure:
            # What it means for the transaction, the next statement or COMMIT will say.
            logger.info(
                "closing a stream on database %s failed (%s)",
                block.instance.name,
                failure.kind.value,
                extra={"database": block.instance.name, "error_kind": failure.kind.value},
            )

    def _tell(self, error: BaseException | None) -> None:
        duration = time.perf_counter() - self._started
        failed = SUCCEEDED if error is None else judged(error)
        self._reader.told(duration, failed[0])
        self._tell_end(duration, failed)
