"""Requests that travel with a psycopg statement in one burst, and replies that are read with the next use.

psycopg's own pipeline waits for its BEGIN, and SQLAlchemy reads a result before a pipeline ends. So a burst is one wait
of psycopg's: libpq in pipeline mode, every request sent, every reply read, and libpq back in its usual mode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.generators import fetch_many, send
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, TransactionStatus
from psycopg.waiting import Ready

from prefiq_db.drivers.burst import Burst
from prefiq_db.drivers.psycopg_bursts import answer_in, corked, is_servers_word
from prefiq_db.drivers.readable import is_readable

#: Set on psycopg's exception for a request ahead of the statement: the server skipped the statement itself.
AHEAD: Final = "prefiq_db_ahead"

_GOOD: Final = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.EMPTY_QUERY)
_COPYING: Final = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)


class PipelineBurst(Burst):
    """A burst that psycopg's cursor takes for a pipeline: it queues the statement here, and sends nothing itself."""

    __slots__ = ("after", "answer", "command_queue", "result_queue")

    def __init__(self, ahead: Sequence[str] = (), behind: str | None = None) -> None:
        super().__init__(ahead, behind)
        self.command_queue: deque[Callable[[], None]] = deque()
        self.result_queue: deque[Any] = deque()
        #: a question to send behind it all, in a transaction of its own: what it is worth when all else is done
        self.after: str | None = None
        #: the row of its answer, as texts; ``None``: there is none
        self.answer: tuple[str, ...] | None = None

    def _communicate_gen(self) -> Iterator[Any]:
        """Send nothing yet: psycopg's cursor calls this when it has queued the statement."""
        yield from ()


class Accompanied:
    """Mixed into psycopg's connections."""

    pgconn: Any
    _pipeline: Any
    _prepared: Any

    #: wraps the generator of the next wait, if something travels with it or is still to be read
    _around: Callable[[Any], Any] | None = None
    _burst: PipelineBurst | None = None
    #: reads the reply that nobody waited for; ``None``: there is none
    _hearing: Any = None

    @property
    def is_unheard(self) -> bool:
        """Whether a reply was left to be read with the next use; every use of the connection reads it first."""
        return self._hearing is not None

    def ride(self, burst: PipelineBurst | None) -> None:
        """Send *burst* with the next statement; ``None``: send the next one alone."""
        self._burst = burst
        if burst is not None:
            self._around = self._in_burst
        else:
            self._around = None if self._hearing is None else self._after_hearing

    # --- a reply that is read later --------------------------------------------------------------

    def send_unheard(self, text: str) -> None:
        """Send the control statement *text*, which ends a transaction; its reply is read with the next use."""
        self.pgconn.enter_pipeline_mode()
        self.pgconn.send_query_params(text.encode(), None)
        self.pgconn.pipeline_sync()
        self.pgconn.flush()
        self._hearing = self._heard()
        self._around = self._after_hearing

    def _heard(self) -> Iterator[Any]:
        """Read the reply, and check that the server is at rest."""
        pgconn = self.pgconn
        yield from send(pgconn)
        results = yield from fetch_many(pgconn)
        (sync,) = yield from fetch_many(pgconn)
        if sync.status != ExecStatus.PIPELINE_SYNC or not results or results[0].status != ExecStatus.COMMAND_OK:
            raise psycopg.OperationalError("the end of an earlier transaction failed: the connection is closed")

    def _note_heard(self) -> None:
        self._hearing = None
        self.ride(self._burst)

    def _after_hearing(self, gen: Any) -> Any:
        """Read the reply first, then run *gen*."""
        yield from self._hear_first()
        self.pgconn.exit_pipeline_mode()
        return (yield from gen)

    def _hear_first(self) -> Any:
        try:
            yield from self._hearing
        except psycopg.Error:
            self.pgconn.finish()
            raise
        finally:
            self._note_heard()

    def hears_all(self) -> bool:
        """Read what has come of the reply, without waiting; return whether nothing else has come."""
        hearing = self._hearing
        if hearing is None:
            return False
        pgconn = self.pgconn
        try:
            next(hearing)
            while is_readable(pgconn.socket):
                hearing.send(Ready.R)
        except StopIteration:
            self._note_heard()
            pgconn.exit_pipeline_mode()
            at_rest = bool(pgconn.transaction_status == TransactionStatus.IDLE)
            return at_rest and not is_readable(pgconn.socket)
        except (psycopg.Error, OSError, ValueError):
            pgconn.finish()
            return False
        return True

    def end_of(self) -> psycopg.Error | None:
        """Read what has come unasked, between two statements; return an error, and close, if that is the end.

        It may be no more than a notice, or word of a setting that was changed.
        """
        pgconn, last_words = self.pgconn, _LastWords(self.pgconn.notice_handler)
        pgconn.notice_handler = last_words  # libpq takes an error that it didn't ask for as a notice
        try:
            while pgconn.status == ConnStatus.OK and last_words.code is None and is_readable(pgconn.socket):
                pgconn.consume_input()
                pgconn.is_busy()
        except psycopg.Error:
            pgconn.finish()
        finally:
            pgconn.notice_handler = last_words.handler
        if pgconn.status == ConnStatus.OK and last_words.code is None:
            return None
        pgconn.finish()
        return last_words.error()

    # --- a burst ---------------------------------------------------------------------------------

    def _in_burst(self, gen: Any) -> Any:
        """Run *gen*, of a cursor's execute(), in a burst."""
        burst, pgconn = self._burst, self.pgconn
        assert burst is not None
        self.ride(None)
        commands, queued = burst.command_queue, burst.result_queue
        if self._hearing is None:
            pgconn.enter_pipeline_mode()
        try:
            for text in burst.ahead:
                commands.append(partial(pgconn.send_query_params, text.encode(), None))
            self._pipeline = burst
            yield from gen  # converts the values, and queues
        except BaseException:
            if self._hearing is None and pgconn.status == ConnStatus.OK:
                pgconn.exit_pipeline_mode()
            raise
        finally:
            self._pipeline = None
        if burst.behind is not None:
            commands.append(partial(pgconn.send_query_params, burst.behind.encode(), None))
        burst.sent = True
        if burst.after is None:
            _queue(pgconn, commands)
        else:
            with corked(pgconn.socket):
                _queue(pgconn, commands)
                _queue(pgconn, [partial(pgconn.send_query_params, burst.after.encode(), None)])
        yield from send(pgconn)
        if self._hearing is not None:
            yield from self._hear_first()
        replies = yield from self._replies(len(commands))
        if burst.after is not None:
            burst.answer = yield from self._answer()
        if pgconn.status == ConnStatus.OK:
            pgconn.exit_pipeline_mode()
        self._settle(burst, replies, queued)
        return None

    def _replies(self, count: int) -> Any:
        """Return the results of *count* requests; fewer, the last of them an error, if the connection is lost."""
        replies: list[list[Any]] = []
        try:
            while len(replies) <= count:  # the last is that of the Sync
                results = yield from fetch_many(self.pgconn)
                if not results or results[-1].status in _COPYING:
                    self.pgconn.finish()
                    raise psycopg.InternalError("the server's replies don't match the requests")
                replies.append(results)
        except psycopg.OperationalError:
            if not any(result.status == ExecStatus.FATAL_ERROR for results in replies for result in results):
                raise
        return replies

    def _answer(self) -> Any:
        """Return the row of the reply to what was sent behind it all; nothing else depends on whether it comes."""
        try:
            replies = yield from self._replies(1)
        except psycopg.OperationalError:  # lost since: the next use tells
            return None
        return answer_in(replies[0]) if len(replies) > 1 else None

    def _settle(self, burst: PipelineBurst, replies: list[list[Any]], queued: deque[Any]) -> None:
        """Give each reply to whom it belongs, or raise the first error."""
        encoding = self.pgconn._encoding
        rest = iter(replies)
        for _ in burst.ahead:
            results = next(rest, [])
            failed = _failure(results, encoding)
            if failed is not None:
                if burst.behind is None or is_servers_word(results):
                    burst.refused = burst.refused_ahead = True
                    setattr(failed, AHEAD, True)
                self._forget_unprepared(queued)
                raise failed
        for place, entry in enumerate(queued):
            results = next(rest, [])
            failed = _failure(results, encoding)
            if failed is not None:
                burst.refused = is_servers_word(results)
                if place == 0:
                    self._forget_unprepared(queued)
            if entry is not None:
                cursor, preparing = entry
                if preparing:
                    self._prepared.validate(*preparing, results)
                if failed is None:
                    cursor._set_results(results)
            if failed is not None:
                raise failed
        if burst.behind is not None:
            results = next(rest, [])
            failed = _failure(results, encoding)
            if failed is not None:
                raise failed
            burst.tag = results[0].command_status.decode()

    def _forget_unprepared(self, queued: deque[Any]) -> None:
        """Forget the statement that was to be prepared here: psycopg counts it as prepared when it queues it."""
        if queued and queued[0] is None and self._prepared._names:
            self._prepared._names.popitem()


class _LastWords:
    """Hears a server say why it ends the connection; other notices go to *handler*."""

    def __init__(self, handler: Callable[[Any], None] | None) -> None:
        self.handler = handler
        self.code: str | None = None

    def __call__(self, result: Any) -> None:
        severities = map(result.error_field, (DiagnosticField.SEVERITY_NONLOCALIZED, DiagnosticField.SEVERITY))
        if {b"FATAL", b"PANIC"}.isdisjoint(severities):
            if self.handler is not None:
                self.handler(result)
            return
        self.code = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()

    def error(self) -> psycopg.Error:
        try:
            kind: type[psycopg.Error] = errors.lookup(self.code or "")
        except KeyError:
            kind = psycopg.OperationalError
        return kind("the server or the network ended the connection")


def _queue(pgconn: Any, commands: Iterable[Callable[[], None]]) -> None:
    """Hand *commands* to libpq, up to a synchronization point."""
    for command in commands:
        command()
    pgconn.pipeline_sync()


def _failure(results: list[Any], encoding: str) -> psycopg.Error | None:
    """Return psycopg's error for *results*, if they aren't those of a request that succeeded."""
    if not results:
        return psycopg.OperationalError("the connection is lost")
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            return errors.error_from_result(result, encoding=encoding)
        if result.status not in _GOOD:
            return psycopg.InternalError("the server's replies don't match the requests")
    return None
