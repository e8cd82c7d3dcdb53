"""Streams on MariaDB and MySQL: the server sends all rows of a statement, and nothing else, until the last one is read.

What becomes of the rows that nobody reads: docs/decisions/0078-why-a-left-stream-costs-its-connection.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from prefiq_db.deadline import Deadline
from prefiq_db.dialects.streams import StreamDialect, fetch_tuples
from prefiq_db.drivers.stopping import STOP_SECONDS
from prefiq_db.errors import TransactionBusyError

# How many rows are skipped with one call of the driver.
_SKIPPED_AT_ONCE: Final = 1000

# The server closes a connection whose client doesn't read for net_write_timeout, by default a minute; a consumer may
# take longer than that for a batch. As long as an idle session lives by default.
_PAUSE_SECONDS: Final = 28_800


def is_streaming() -> TransactionBusyError:
    return TransactionBusyError(
        "a stream is open in this transaction, and this database sends nothing else on its connection until the last "
        "row is read: leave the stream first, or run the statement outside this transaction"
    )


class MysqlStreams(StreamDialect):
    """Mixed into the dialects of the family.

    The clock of a connection notes whether a stream is open on it, because the drivers would skip its rows silently
    when another statement is sent.
    """

    def unlimited_sql(self) -> str:
        """Return what SET says for no time limit: the server counts the time in which we don't read, too."""
        raise NotImplementedError

    def has_unread_rows(self, dbapi_connection: Any) -> bool:
        """Return whether the server's reply isn't read to its end."""
        raise NotImplementedError

    def end_of(self, dbapi_connection: Any) -> Exception | None:
        if self.has_unread_rows(dbapi_connection):
            return None  # they are what has come; a server says nothing else unasked
        driver = getattr(dbapi_connection, "_connection", dbapi_connection)  # SQLAlchemy wraps asyncmy's
        driver.drop()
        failure: Exception = driver.lost("the server or the network ended the connection")
        return failure

    def check_not_streaming(self, dbapi_connection: Any) -> None:
        """Raise if a stream is open on the connection."""
        if getattr(self.clock_of(dbapi_connection), "is_streaming", False):
            raise is_streaming()

    def control(self, dbapi_connection: Any, sql: str) -> str | None:
        self.check_not_streaming(dbapi_connection)
        tag: str | None = super().control(dbapi_connection, sql)  # type: ignore[misc]  # TransactionDialect has it
        return tag

    def open_stream(
        self, connection: Any, send: Callable[[], Any], seconds: float, deadline: Deadline | None = None
    ) -> Any:
        proxied = connection._dbapi_connection
        state, raw = self.session_of(proxied), proxied.dbapi_connection
        self._bound_fetch(connection, seconds, deadline)
        if state.session_timeout != 0.0:
            try:
                self.control(raw, f"SET SESSION {self.unlimited_sql()}, net_write_timeout = {_PAUSE_SECONDS}")
            except BaseException as error:  # noqa: BLE001 - SQLAlchemy decides how to raise it
                connection._handle_dbapi_exception(error, None, None, None, None)
            state.session_timeout = 0.0
        result = send()
        self._note_open_stream(raw)
        return result

    def fetch_batch(
        self, connection: Any, result: Any, size: int, seconds: float, deadline: Deadline | None = None
    ) -> Sequence[Any]:
        raw = connection._dbapi_connection.dbapi_connection
        self._bound_fetch(connection, seconds, deadline)
        try:
            return fetch_tuples(result, size)
        finally:
            self._note_open_stream(raw)

    def _bound_fetch(self, connection: Any, seconds: float, deadline: Deadline | None) -> None:
        proxied = connection._dbapi_connection
        limit = seconds if deadline is None else min(seconds, deadline.left())
        self.bound_wait(self.session_of(proxied), proxied.dbapi_connection, limit)

    def _note_open_stream(self, dbapi_connection: Any) -> None:
        self.clock_of(dbapi_connection).is_streaming = self.has_unread_rows(dbapi_connection)

    def close_stream(self, connection: Any, result: Any, seconds: float, *, is_last: bool) -> None:
        raw = connection._dbapi_connection.dbapi_connection
        if self.has_unread_rows(raw):
            if is_last:
                self._skip(connection, result.cursor, STOP_SECONDS, only_once=True)
            else:
                self._skip(connection, result.cursor, seconds)
        if self.has_unread_rows(raw):
            self.clock_of(raw).stop_unread()
            connection.invalidate()
        self.clock_of(raw).is_streaming = False
        result.close()

    def _skip(self, connection: Any, cursor: Any, seconds: float, *, only_once: bool = False) -> None:
        """Read rows that nobody wants, for at most *seconds*; if the server pauses for longer, its connection ends."""
        deadline = Deadline.after(seconds)
        raw = connection._dbapi_connection.dbapi_connection
        try:
            while self.has_unread_rows(raw) and not deadline.has_passed:
                self._bound_fetch(connection, deadline.left(), None)
                cursor.fetchmany(_SKIPPED_AT_ONCE)
                if only_once:
                    return
        except self.loaded_dbapi.Error:  # type: ignore[attr-defined]
            # Either the reply has ended with it, or the caller closes the connection.
            return
