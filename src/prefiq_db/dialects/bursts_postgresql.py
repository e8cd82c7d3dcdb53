"""A burst on PostgreSQL: one pipeline of BEGIN and the statements, and behind a synchronization point, COMMIT.

When a statement fails, the server skips all others up to that point; the COMMIT behind it then rolls back, as every
COMMIT of a failed transaction does. So a batch costs one round trip, and leaves nothing open, whether it fails or not.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from prefiq_db.bridge import await_
from prefiq_db.dialects.burst_control import BEGIN, Burst, BurstDialect, CannotTravelError, Pending
from prefiq_db.dialects.session import TransactionState
from prefiq_db.interruptions import is_interruption

_NUMBERED: Final = re.compile(r"\$[0-9]")


class PostgresqlBursts(BurstDialect):
    """Mixed into PostgreSQL's dialects."""

    has_bursts = True

    def burst_statement(self, pending: Pending) -> None:
        """Accept every statement: one that can't run in a transaction fails here as it does there.

        Except for one without parameters that names one (``$1``): a pipeline sends it as if it took parameters, and the
        server then reports a broken protocol instead of the mistake.
        """
        if not pending.parameters and _NUMBERED.search(pending.statement):
            raise CannotTravelError

    def burst_begin(self, transaction: TransactionState) -> Sequence[str]:
        message: str = self.begin_sql(transaction)  # type: ignore[attr-defined]
        return message.split("; ")  # our own words: no string in them holds a semicolon

    def bound_burst(self, connection: Any, seconds: float, deadline: Any = None) -> None:
        proxied = connection._dbapi_connection
        state = self.session_of(proxied)  # type: ignore[attr-defined]
        if state.session_timeout != seconds or not self.limits.session_settings:  # type: ignore[attr-defined]
            state.transaction.local_timeout = seconds  # it travels with BEGIN
        left = seconds if deadline is None else min(seconds, deadline.left())
        self.bound_wait(state, proxied.dbapi_connection, left)  # type: ignore[attr-defined]

    def send_burst(self, proxied: Any, burst: Burst) -> None:
        from prefiq_db.drivers import psycopg_bursts as pipeline

        connection = self._driver(proxied.dbapi_connection)  # type: ignore[attr-defined]
        pgconn = connection.pgconn
        cursors = [self._driver_cursor(each.cursor) for each in burst.pending]  # type: ignore[attr-defined]
        begin = [pipeline.command(pgconn, sql) for sql in burst.begin]
        statements = self._requests_of(burst, cursors)
        if statements is None:
            return
        sync = pgconn.pipeline_sync
        end = pipeline.command(pgconn, burst.end)
        # A savepoint that failed has to be rolled back to; releasing it behind the first synchronization would fail.
        requests = deque([*begin, *statements, *([] if burst.savepoint else [sync]), end, sync])
        told = self._ask_behind(burst, requests, pgconn)
        replies: list[list[Any]] = []
        try:
            self._wait_for_all(connection, pipeline.exchange(pgconn, requests, replies, len(requests)))
        except Exception as error:
            is_foreign = is_interruption(error)  # of a signal handler; the statement was stopped for it
            self._note_replies(burst, cursors, replies, interrupted=is_foreign)
            if is_foreign and (burst.surely_failed or burst.savepoint):
                raise
            burst.fail(error, burst.answered, said=False)
        except BaseException:
            self._note_replies(burst, cursors, replies, interrupted=True)
            raise
        else:
            self._note_replies(burst, cursors, replies)
            raw = proxied.dbapi_connection
            burst.at_rest = burst.committed if burst.savepoint else self.is_at_rest(raw)  # type: ignore[attr-defined]
        finally:
            told(replies)

    def _requests_of(self, burst: Burst, cursors: list[Any]) -> list[Any] | None:
        """Return what sends each statement; ``None``: a value can't be converted, so that all is sent one by one."""
        from prefiq_db.drivers import psycopg_bursts as pipeline

        try:
            return [
                pipeline.request_of(cursor, self.commented(each), each.parameters)
                for cursor, each in zip(cursors, burst.pending, strict=True)
            ]
        except Exception as error:
            if is_interruption(error):
                raise
            # Sent one by one it fails in its turn.
            burst.unread = burst.at_rest = True
            return None

    def _ask_behind(self, burst: Burst, requests: deque[Any], pgconn: Any) -> Callable[[list[list[Any]]], None]:
        """Add the question how far the primary is, if somebody has to know; return what notes the answer."""
        from prefiq_db.drivers import psycopg_bursts as pipeline

        dialect: Any = self
        if dialect.marker is None or burst.savepoint:
            return lambda replies: None
        place = len(requests)
        requests.extend([pipeline.command(pgconn, dialect.mark_sql), pgconn.pipeline_sync])

        def note(replies: list[list[Any]]) -> None:
            answer = pipeline.answer_in(replies[place]) if burst.committed and len(replies) > place else None
            if answer is not None or not burst.surely_failed:
                dialect.marker.note(None if answer is None else dialect.mark_from(answer))

        return note

    def _wait_for_all(self, connection: Any, exchange: Any) -> None:
        with connection.lock:
            connection.wait(exchange)

    def _note_replies(
        self, burst: Burst, cursors: list[Any], replies: list[list[Any]], *, interrupted: bool = False
    ) -> None:
        from prefiq_db.drivers import psycopg_bursts as pipeline

        first = len(burst.begin)
        end = first + len(cursors) + (not burst.savepoint)
        for place, reply in enumerate(replies[: end + 2]):
            number = place - first
            if pipeline.is_error(reply):
                # The one of COMMIT stands at its own place, or at that of the synchronization point after it.
                where = BEGIN if number < 0 else min(number, len(cursors))
                burst.fail(pipeline.error_of(cursors[0], reply), where, said=pipeline.is_servers_word(reply))
            elif 0 <= number < len(cursors) and not pipeline.is_skipped(reply):
                burst.answered += burst.failure is None
                burst.pending[number].hand_over = self._hands_over(burst.pending[number].cursor, cursors[number], reply)
            elif place == end and burst.failure is None and not interrupted:
                burst.committed = reply[0].command_status == (b"RELEASE" if burst.savepoint else b"COMMIT")

    def _hands_over(self, cursor: Any, driver: Any, reply: list[Any]) -> Any:
        def hand_over() -> None:
            driver._check_results(reply)
            driver._set_results(reply)
            self._fill(cursor, driver)

        return hand_over

    def _fill(self, cursor: Any, driver: Any) -> None:
        """Do what SQLAlchemy's cursor does after executing, beyond psycopg's own."""


class AsyncPostgresqlBursts(PostgresqlBursts):
    """Mixed into PostgreSQL's async dialect."""

    def _wait_for_all(self, connection: Any, exchange: Any) -> None:
        async def wait() -> None:
            async with connection.lock:
                await connection.wait(exchange)

        await_(wait())

    def _fill(self, cursor: Any, driver: Any) -> None:
        if driver.description is not None:
            result = driver.pgresult
            cursor._rows = deque(driver._tx.load_rows(0, result.ntuples, driver._make_row))
