"""SQLite's connection: it ends a statement at its deadline, and is set up before anybody sees it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from prefiq_db.dialects.sqlite_decimals import add_functions
from prefiq_db.errors import PrefiqDbError

# How many steps of SQLite's virtual machine pass between two looks at the clock: well under a millisecond of work.
_STEPS_BETWEEN_CLOCK_LOOKS = 10_000


class SqliteConnection(sqlite3.Connection):
    """A connection that stops a statement at its deadline; SQLite has no statement timeout of its own."""

    # Every statement reads and sets some of these, which costs half as much in slots.
    __slots__ = (
        "__weakref__",
        "changes_before",
        "decimal_columns",
        "ends_at",
        "interruption",
        "lock_wait_seconds",
        "orphans",
        "ran",
        "refusal",
        "timed_out",
        "timeout_seconds",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.timeout_seconds = 0.0
        self.lock_wait_seconds = 0.0
        #: when the running statement is stopped, on the clock of perf_counter; ``None`` while none is running
        self.ends_at: float | None = None
        self.timed_out = False
        #: the exception of a signal handler while a statement ran (Ctrl-C); sqlite3 reports only "interrupted"
        self.interruption: BaseException | None = None
        #: whether a statement succeeded in the open transaction of a session or a connection of the engine; ``None``:
        #: no such transaction, or one of transaction(), which takes the writer's lock first
        self.ran: bool | None = None
        #: the connection's count of changed rows when that transaction began
        self.changes_before = 0
        #: while a migration runs without foreign keys: the rows whose reference was broken before
        self.orphans: Counter[tuple[str, str]] | None = None
        #: what one of our SQL functions raised while a statement ran; sqlite3 doesn't report it
        self.refusal: PrefiqDbError | None = None
        super().__init__(*args, **kwargs)
        #: tables and columns of exact decimals that are known to hold numbers
        self.decimal_columns: set[tuple[str, str]] = set()

    def start_clock(self) -> None:
        self.timed_out = False
        self.interruption = self.refusal = None
        self.ends_at = time.perf_counter() + self.timeout_seconds

    def stop_clock(self) -> None:
        self.ends_at = None

    def stop_now(self) -> None:
        """Stop the statement that another thread runs on this connection.

        interrupt() would also hit a ROLLBACK after it, as long as another cursor isn't read to its end.
        """
        self.ends_at = 0.0

    def close(self) -> None:
        """Close, and roll back the open transaction.

        SQLite's own close waits until the last statement is finished. A cursor that a traceback still holds would keep
        the transaction open until then, and with it the writer's lock.
        """
        self.stop_clock()
        with contextlib.suppress(sqlite3.Error):  # closed already, or broken: there is nothing to roll back
            if self.in_transaction:
                self.rollback()
        super().close()

    def looks_at_clock(self) -> Iterator[int]:
        """Yield 0 to go on and 1 to stop, once per check.

        A generator, because Python runs signal handlers where a function begins: their exception would be outside every
        try block of a function, but is inside this one.
        """
        stop = 0
        while True:
            try:
                yield stop
                stop = 0
                if self.ends_at is not None and time.perf_counter() >= self.ends_at:
                    self.timed_out = True
                    stop = 1
            except GeneratorExit:
                return
            except BaseException as error:  # noqa: BLE001 - sqlite3 would swallow it; the dialect raises it again
                self.interruption = error
                stop = 1


def connection_factory(
    timeout_seconds: float, durable_wal: bool, read_only: bool = False
) -> Callable[..., SqliteConnection]:
    """Return a factory for ``sqlite3.connect(factory=)``: it sets up each connection before anyone uses it."""

    def connect(*args: Any, **kwargs: Any) -> SqliteConnection:
        connection = SqliteConnection(*args, **kwargs)
        try:
            connection.timeout_seconds = timeout_seconds
            connection.lock_wait_seconds = kwargs["timeout"]
            connection.execute("PRAGMA foreign_keys = ON").close()
            add_functions(connection)
            if read_only:
                connection.execute("PRAGMA query_only = ON").close()
            elif durable_wal:
                _use_wal(connection)
            looks = connection.looks_at_clock()
            next(looks)
            connection.set_progress_handler(looks.__next__, _STEPS_BETWEEN_CLOCK_LOOKS)
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging once, so that readers and the one writer don't block each other."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
