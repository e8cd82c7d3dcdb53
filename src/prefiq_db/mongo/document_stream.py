"""A stream of documents: opened once, read batch by batch, closed once. One state machine for both worlds.

Between two batches it holds a cursor on the server, and no connection; in a transaction it reads in its session.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from prefiq_db.bridge import can_await
from prefiq_db.core.stream_life import StreamLife
from prefiq_db.dialects.session import SessionState
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.events import StreamFinished
from prefiq_db.hooks.calls import SUCCEEDED, judged
from prefiq_db.mongo.asking import ask, may_read_again
from prefiq_db.mongo.command_words import describe_command, show_command
from prefiq_db.mongo.document_requests import Request
from prefiq_db.mongo.mongo_calls import MongoCalls
from prefiq_db.mongo.running_calls import DocumentCall, Note, worker_name
from prefiq_db.mongo.session_block import SessionBlock
from prefiq_db.origin import application_line, readable
from prefiq_db.transaction import Block

logger = logging.getLogger("prefiq_db.database")


class DocumentStreamCore(StreamLife):
    """One stream of what *request* finds; its ``work`` returns PyMongo's cursor.

    Args:
        block: the transaction that the caller named; ``None``: the one that is open when the stream is opened, if any.
        make: converts each document; ``None`` gives the documents themselves.
    """

    _database: MongoCalls
    _reads = "documents"
    _cut_off = "the stream is closed: the transaction that it read in has ended"

    def __init__(
        self,
        database: MongoCalls,
        request: Request,
        block: Block | None,
        batch_size: int,
        make: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(database, DocumentCall("stream", database.admit()))
        self._request = request
        self._named = block
        self._size = batch_size
        self._make = make
        self._block: SessionBlock | None = None
        self._cursor: Any = None
        self._has_ended = False
        self._state = SessionState(float("inf"), None)
        self._first = self._slowest = 0.0
        self._rows = self._batches = 0
        self._complete = False

    # --- open ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Ask for the first batch; until it has come, it is asked again after an error that may pass."""
        self._begin_to_open()
        database = self._database
        try:
            with self._alone():
                database.check_usable()
                self._block = database.place(self._named)
                rows = self._begin()
                self._first = time.perf_counter() - self._started
                self._is_open = True
                self._hold()
                self._took(rows)
        except BaseException as error:
            self._finish(error)
            raise

    def _begin(self) -> list[Any]:
        call, block = self._call, self._block
        if block is not None:
            call.attempts += 1
            rows: list[Any] = self._ask(self._first_batch)
            block.open_streams.append(self)
            return rows

        def attempt() -> Any:
            call.attempts += 1
            return self._ask(self._first_batch)

        retrier = self._database.retrier(call.given, _may_read_again)
        rows = retrier.run(attempt)
        self._database.instance.retry_budget.successes += 1
        return rows

    def _first_batch(self, session: Any) -> Any:
        database = self._database
        collection = database.collection_for(self._request, self._call, pinned=session is not None)
        self._cursor = self._request.work(collection, session, database.instance.settle)
        return self._cursor.to_list(self._size)

    def _ask(self, work: Callable[[Any], Any]) -> Any:
        """Return the result of ``work(session)``, which asks PyMongo once."""
        database, call, block = self._database, self._call, self._block
        if block is not None:
            return block.carry_out(call, work, explicit=self._named is not None)
        return ask(database.instance, Note(call, retry_number=0), database.seconds(call), lambda: work(None))

    def _hold(self) -> None:
        """Let the watchdog see it, so that one that is never closed is reported."""
        checkout = self._state.checkout
        checkout.line, checkout.worker = application_line(), worker_name()
        self._state.statement.summary = f"find {self._request.collection}"
        checkout.checked_out_at = time.perf_counter()
        self._database.instance.watcher.know(self._state)

    # --- read ------------------------------------------------------------------------------------

    def next_batch(self) -> tuple[list[Any], None]:
        """Return the next documents, none at the end.

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
            return self._converted(rows or []), None

    def _fetch(self) -> list[Any]:
        started = time.perf_counter()
        try:
            rows: list[Any] = self._ask(lambda session: self._cursor.to_list(self._size))
            self._slowest = max(self._slowest, time.perf_counter() - started)
            self._took(rows)
        except BaseException as error:
            self._finish(error)
            raise
        self._ready = None
        return rows

    def _converted(self, rows: list[Any]) -> list[Any]:
        """Convert *rows*: the caller's own code, whose errors are the caller's own."""
        if self._make is None:
            return rows
        try:
            return list(map(self._make, rows))
        except BaseException as error:
            self._finish(error, of_ours=False)
            raise

    def _took(self, rows: list[Any]) -> None:
        self._ready, self._refusal = rows, None
        self._rows += len(rows)
        self._batches += bool(rows)
        self._state.checkout.excused_at = time.perf_counter()  # what is read isn't forgotten
        if len(rows) < self._size:
            self._complete = True
            self._finish(None)

    # --- close -----------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Clean up after an interruption of :meth:`open` or :meth:`close`; does nothing if that has ended normally."""
        if self._is_open and (not self._database.runtime.is_async or can_await()):
            self._release()
        self._let_go()

    def _finish(self, error: BaseException | None, *, of_ours: bool = True) -> None:
        """Give everything back and report the end, once; *of_ours* if *error* is from the database."""
        if error is not None:
            self._refuse_after_failure()
        try:
            if self._is_open:
                self._release()
        finally:
            self._let_go()
            self._tell(error if of_ours else None)

    def _release(self) -> None:
        """Close the cursor on the server, unless it has been read to its end."""
        cursor, self._is_open = self._cursor, False
        if not cursor.alive:
            return
        instance = self._database.instance
        try:
            ask(instance, Note(self._call), self._database.seconds(self._call), cursor.close)
        except PrefiqDbError as failure:
            logger.info(
                "closing a stream on database %s failed (%s); the server forgets its cursor by itself",
                instance.name,
                failure.kind.value,
                extra={"database": instance.name, "error_kind": failure.kind.value},
            )

    def _let_go(self) -> None:
        self._is_open = False
        if self._block is not None and self in self._block.open_streams:
            self._block.open_streams.remove(self)
        checkout = self._state.checkout
        taken, checkout.checked_out_at = checkout.checked_out_at, 0.0
        if taken and checkout.leaked:
            self._database.instance.watcher.checked_in(self._state, time.perf_counter() - taken)

    def _tell(self, error: BaseException | None) -> None:
        database, duration = self._database, time.perf_counter() - self._started
        failed = SUCCEEDED if error is None else judged(error)
        if not self._has_ended and StreamFinished in database.hooks.wanted:
            database.hooks.emit(StreamFinished(**self._event_fields(duration, failed[0])))
        self._has_ended = True
        self._tell_end(duration, failed)

    def _event_fields(self, duration: float, kind: ErrorKind | None) -> Mapping[str, Any]:
        command = {"find": self._request.collection}
        description = describe_command("find", command, show_command("find", command))
        return {
            "database": self._database.name,
            "statement": description.summary,
            "parameters": {},
            "operation": description.operation,
            "summary": description.summary,
            "tables": description.tables,
            "fingerprint": description.fingerprint,
            "call_id": self._call.id,
            "transaction_id": None if self._block is None else self._block.id,
            "origin": readable(application_line()),
            "tags": self._call.tags,
            "duration_seconds": duration,
            "first_row_seconds": self._first,
            "slowest_seconds": max(self._slowest, self._first),
            "rows": self._rows,
            "batches": self._batches,
            "complete": self._complete,
            "kind": kind,
        }


def _may_read_again(error: BaseException) -> bool:
    return isinstance(error, PrefiqDbError) and may_read_again(error)
