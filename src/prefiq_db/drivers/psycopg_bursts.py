"""Several statements in one message of psycopg: its connection in libpq's pipeline mode, for one exchange.

psycopg's own pipeline sends each statement by itself and raises the first error it meets; here everything goes out
together, and every reply is kept.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from psycopg.adapt import Transformer
from psycopg.errors import NotSupportedError
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.waiting import Ready, Wait

from prefiq_db.interruptions import is_interruption

#: Requests that are handed to libpq at once; it keeps what the socket doesn't take yet.
_SLICE: Final = 100
_COPIES: Final = frozenset({ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH})

Request = Callable[[], None]


def request_of(cursor: Any, statement: str, parameters: Any) -> Request:
    """Return the request that sends *statement* for psycopg's *cursor*; converting the values may raise."""
    cursor._reset()
    cursor._tx = Transformer(cursor)
    query = cursor._convert_query(statement, parameters)
    cursor._query, cursor._last_query = query, None
    pgconn = cursor._pgconn
    return lambda: pgconn.send_query_params(
        query.query, query.params, param_formats=query.formats, param_types=query.types, result_format=cursor.format
    )


def command(pgconn: Any, sql: str) -> Request:
    """Return the request that sends one of our own statements."""
    return lambda: pgconn.send_query_params(sql.encode(), None)


def exchange(pgconn: Any, requests: deque[Request], replies: list[list[Any]], expected: int) -> Any:
    """Send all *requests*, and append the *expected* number of replies to *replies*: each a list of results.

    A generator, as all of psycopg's waiting is. If it ends early, the connection must be closed.
    """
    pgconn.enter_pipeline_mode()
    unfinished: list[Any] = []
    with corked(pgconn.socket):
        unsent = _send_some(pgconn, requests)
    while len(replies) < expected:
        ready = yield (Wait.RW if unsent else Wait.R)
        if ready & Ready.R:
            pgconn.consume_input()
            unfinished = _read_some(pgconn, unfinished, replies)
        if unsent and ready & Ready.W:
            unsent = pgconn.flush() > 0 or _send_some(pgconn, requests)
    pgconn.exit_pipeline_mode()


@contextlib.contextmanager
def corked(number: int) -> Iterator[None]:
    """Let the system collect what is sent in the block: libpq sends at each synchronization point, and has two."""
    option = getattr(socket, "TCP_CORK", None)  # Linux has it
    if option is None:
        yield
        return
    # A copy of the descriptor: an interruption here must not close libpq's own.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=os.dup(number)) as copied:
        try:
            copied.setsockopt(socket.IPPROTO_TCP, option, 1)
        except OSError:  # a Unix socket
            yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it was closed meanwhile; the next read tells
                copied.setsockopt(socket.IPPROTO_TCP, option, 0)


def _send_some(pgconn: Any, requests: deque[Request]) -> bool:
    """Send the next slice; return whether there is more to send."""
    for _ in range(min(_SLICE, len(requests))):
        requests.popleft()()
    return bool(pgconn.flush() > 0 or requests)


def _read_some(pgconn: Any, unfinished: list[Any], replies: list[list[Any]]) -> list[Any]:
    """Read what has arrived; return the results of a request that is not answered to its end yet."""
    while note := pgconn.notifies():
        if pgconn.notify_handler is not None:
            pgconn.notify_handler(note)
    while not pgconn.is_busy():
        result = pgconn.get_result()
        if result is None:
            if not unfinished:
                break
            replies.append(unfinished)
            unfinished = []
        elif result.status == ExecStatus.PIPELINE_SYNC:
            replies.append([result])
        elif result.status in _COPIES:
            raise NotSupportedError("COPY cannot be used in a pipeline")
        else:
            unfinished.append(result)
    return unfinished


def commit_and_ask(connection: Any, question: str, wait: Callable[[Any, Any], None]) -> tuple[str, Any]:
    """Send COMMIT, and *question* behind it in the same message; return COMMIT's command tag and the answer's row.

    What becomes of the question says nothing of COMMIT: if the connection is lost between the two replies, there is no
    answer, and the connection is closed.
    """
    pgconn = connection.pgconn
    sync = pgconn.pipeline_sync
    requests = deque([command(pgconn, "COMMIT"), sync, command(pgconn, question), sync])
    replies: list[list[Any]] = []
    failure: BaseException | None = None
    try:
        wait(connection, exchange(pgconn, requests, replies, 4))
    except Exception as error:
        if not replies or is_error(replies[0]):
            raise
        failure = error
        pgconn.finish()
    if failure is not None and is_interruption(failure):
        raise failure
    if is_error(replies[0]):
        raise error_of(connection.cursor(), replies[0])
    return replies[0][0].command_status.decode(), answer_in(replies[2]) if len(replies) > 2 else None


def answer_in(reply: list[Any]) -> tuple[str, ...] | None:
    """Return the row of *reply*, as texts; ``None`` if it has none."""
    result = reply[0]
    if result.status != ExecStatus.TUPLES_OK or result.ntuples != 1:
        return None
    return tuple((result.get_value(0, place) or b"").decode() for place in range(result.nfields))


def is_error(reply: list[Any]) -> bool:
    return any(result.status == ExecStatus.FATAL_ERROR for result in reply)


def is_servers_word(reply: list[Any]) -> bool:
    """Return whether the error in *reply* is the server's answer to the request, so that the request surely failed.

    libpq's own errors have no SQLSTATE. A pooler that loses its session at the server tells its client so in the
    server's place, as FATAL and with a code of class 08: what the server had done by then, nobody has told.
    """
    for result in reply:
        code = result.error_field(DiagnosticField.SQLSTATE)
        severities = (DiagnosticField.SEVERITY_NONLOCALIZED, DiagnosticField.SEVERITY)
        if code is not None:
            return not (code.startswith(b"08") and b"FATAL" in map(result.error_field, severities))
    return False


def is_skipped(reply: list[Any]) -> bool:
    return any(result.status == ExecStatus.PIPELINE_ABORTED for result in reply)


def error_of(cursor: Any, reply: list[Any]) -> Exception:
    """Return the driver's error in *reply*."""
    try:
        cursor._check_results(reply)
    except Exception as error:  # noqa: BLE001 - it is what was asked for
        return error.with_traceback(None)
    raise AssertionError("this reply is no error")
