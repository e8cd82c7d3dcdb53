"""The connection pool: SQLAlchemy's own, with a check of each connection at checkout.

Polling its socket finds a dead idle connection without a round trip: readable or closed means dead, because a server
sends nothing to an idle client except a final error. Only after long idling we send a real ping.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc as sa_exc
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.pool.base import _ConnectionFairy
from sqlalchemy.util.queue import Empty

from prefiq_db.deadline import CONNECT_TIMEOUT, Deadline
from prefiq_db.dialects.engine_parts import DEFAULT_LIMITS, Limits
from prefiq_db.dialects.session import SESSION_KEY
from prefiq_db.drivers.readable import is_readable
from prefiq_db.interruptions import is_interruption
from prefiq_db.masking import border_translates
from prefiq_db.origin import application_line
from prefiq_db.pool.awaited_checkout import AwaitedCheckouts
from prefiq_db.pool.checkout_deadline import checkout_by, checkout_deadline
from prefiq_db.pool.idle_connections import IdleConnections
from prefiq_db.pool.slots import SlottedPool
from prefiq_db.pool.waiting_line import WaitingLine
from prefiq_db.translation.both import of_both
from prefiq_db.translation.translate import translate

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from prefiq_db.dialects.base import PrefiqDialect
    from prefiq_db.dialects.observers import Watcher
    from prefiq_db.dialects.session import SessionState

# An imported object's method is created anew for each call, unless it has a name of its own.
_within_a_verb = border_translates.get
# Its class has a __getattr__, which slows down each plain attribute; the slot itself is fast.
_record_of: Callable[[Any], Any] = _ConnectionFairy.__dict__["_connection_record"].__get__

# How many uses are noted before they are counted; a reader counts them at once.
_FOLD_AT = 512
# Reasons for throwing a connection away, as in ConnectionLost and PoolStats.
_AGE, _DEAD, _NO_ANSWER, INVALIDATED, _DEMOTED = "age", "dead", "no answer", "invalidated", "server demoted"
_SESSION_CHANGED = "session changed"
_NOT_AT_REST = "transaction left open"
LOST_REASONS = frozenset({_AGE, _DEAD, _NO_ANSWER, INVALIDATED, _SESSION_CHANGED, _NOT_AT_REST, _DEMOTED})


class _VettingPool(SlottedPool):
    """Hands out only connections that are young enough and alive; first come, first served."""

    def __init__(
        self,
        creator: Any,
        pool_limits: Limits = DEFAULT_LIMITS,
        pool_watcher: Watcher | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(creator, **arguments)
        self.limits = pool_limits
        self.watcher = pool_watcher
        self._line = WaitingLine(self._is_asyncio, self._free, self._free_again)
        # Kept on the instance: an attribute of the class would be searched for in its bases, each time.
        self.current_worker: Callable[[], object] = _task_name if self._is_asyncio else get_ident
        # SQLAlchemy wrote into __dict__ directly, and CPython 3.11 doesn't cache attribute positions in a dict that
        # shares its keys; in a dict of its own it does, and finds them five times as fast.
        self.__dict__ = dict(self.__dict__)

    def recreate(self) -> Any:
        recreated: Any = super().recreate()
        recreated.limits, recreated.watcher = self.limits, self.watcher
        recreated.retire(self._retired)
        return recreated

    def connect(self) -> Any:
        watcher = self.watcher
        if watcher is None:
            return super().connect()
        started = perf_counter()
        proxied: Any = None
        try:
            proxied = super().connect()
            state = self._note_checkout(_record_of(proxied), watcher, started)
            if not _within_a_verb():
                # engine or session(): the verbs return what they take, so they need no line in a leak report
                state.checkout.line = application_line()
                state.checkout.guard = self._prefiq.guard_of_sessions
                self._prefiq.expect_back(proxied, state)
            return proxied
        except BaseException:
            # The caller never got it, so nobody else returns it.
            if proxied is not None:
                proxied.invalidate()
            raise

    def take(self) -> Any:
        """Return a connection's place in the pool, for a verb, which returns it with ``checkin()``.

        Like :meth:`connect`, without SQLAlchemy's proxy, which returns a connection that its user forgets.
        """
        started = perf_counter()
        record: Any = self._do_get()
        try:
            since = record.starttime
            if (
                record.dbapi_connection is None
                or self._invalidate_time > since
                or record._soft_invalidate_time > since
                or self._recycle > -1
            ):
                record.get_connection()  # a new one
            watcher = self.watcher
            if watcher is not None:
                self._note_checkout(record, watcher, started)
            elif SESSION_KEY not in record.info:
                self._prefiq.session_in(record.info)
        except BaseException as error:
            record._checkin_failed(error, _fairy_was_created=False)
            raise
        return record

    def _note_checkout(self, record: Any, watcher: Watcher, started: float) -> SessionState:
        # Runs for every statement: few calls, and names that are looked up once.
        info = record.info
        try:
            state: SessionState = info[SESSION_KEY]
        except KeyError:
            state = self._prefiq.session_in(info)
        checkout = state.checkout
        # The vetting read the clock when it got the connection, or just now, if it is a new one.
        checkout.checked_out_at = now = state.vetted_at
        checkout.wait_seconds = waited = now - started
        checkout.worker = self.current_worker()
        watcher.waits.append(waited)
        if watcher.wants_checkouts:
            watcher.checked_out(state)
        return state

    def _do_get(self) -> ConnectionPoolEntry:
        record: Any = None
        try:
            try:
                # New callers must not overtake waiting ones.
                record = None if self._line.waiters else self._pool.get(False)
            except Empty:
                record = None
            if record is None:
                record = self._make_or_wait()
            self._make_fit(record)
            return record  # type: ignore[no-any-return]
        except BaseException:
            if record is not None:
                self._drop(record)
            raise

    def _make_fit(self, record: Any) -> None:
        """Open the connection of *record*, or replace it if it must not be handed out."""
        if record.dbapi_connection is None:
            record.get_connection()
        else:
            reason = self._unfit(record)
            if reason is not None:
                self._renew(record, reason)

    def _make_or_wait(self) -> Any:
        """Return a connection that became free, or an empty slot to open one in."""
        made = None if self._line.waiters else self._reserve()
        return self._wait_in_line() if made is None else made

    def _wait_in_line(self) -> Any:
        watcher, started = self.watcher, perf_counter()
        seconds = checkout_deadline(self._timeout, "pool_timeout_seconds").left()
        given = self._line.wait(seconds)
        if given is not None:
            return given
        if watcher is not None:
            watcher.waited_in_vain(perf_counter() - started)
        raise self._timed_out(seconds)

    def _timed_out(self, seconds: float) -> Exception:
        """Return the error to raise: in a verb SQLAlchemy's, which the border translates, else one of both trees."""
        error = sa_exc.TimeoutError(
            f"pool limit of size {self.size()} overflow {self._max_overflow} reached, connection timed out, "
            f"timeout {seconds:0.2f}"
        )
        watcher: Any = self.watcher
        if _within_a_verb() or watcher is None:
            return error
        failure = translate(error, dialect=self._prefiq.label, database=watcher.database)
        failure.args = (f"{failure}\nwho has them:\n{watcher.table()}",)
        return of_both(failure)

    def waiting_count(self) -> int:
        """Return how many callers wait for a connection."""
        return len(self._line.waiters)

    def _free(self) -> Any:
        """Return an idle connection, or a slot to open one in; ``None`` if there is neither."""
        try:
            return self._pool.get(False)
        except Empty:
            return self._reserve()

    def _free_again(self, given: Any) -> None:
        if given.dbapi_connection is None:
            self._retire(given)
        else:
            super()._do_return_conn(given)

    def give_up(self, given: Any) -> None:
        """Return, as it is, what a caller waited for and doesn't use; it goes to the next in line."""
        try:
            self._free_again(given)
        finally:
            self._has_room()

    def _has_room(self) -> None:
        # One connection less, after a failed connect for instance: a waiting caller may try.
        if self._line.waiters:
            self._line.serve()

    def give_back(self, record: Any) -> None:
        """Return a connection that a verb took, and that is known to be at rest."""
        if record.finalize_callback or self.dispatch.checkin:
            record.checkin(_fairy_was_created=False)
            return
        returns = record.returns
        try:
            state = record.info[SESSION_KEY]
            if state.checkout.tainted:
                self._do_return_conn(record)
                return
            state.last_used = self._note_return(state)
            state.forget()
            record.session = state
            SlottedPool._do_return_conn(self, record)
            if self._line.waiters:
                self._line.serve()
        except BaseException:
            if record.returns == returns:
                self._drop(record)
            else:
                self._has_room()  # it is back, and those who wait were perhaps not told
            raise

    @property
    def waiters(self) -> Any:
        """Those who wait for a connection; the same object for good."""
        return self._line.waiters

    @property
    def idle(self) -> Any:
        """The idle connections, which a verb may take from, and put back to, by itself."""
        return self._pool

    def put_back(self, record: Any) -> None:
        """Put an idle connection back to where it was taken from: the next caller takes it, and looks closer."""
        record.returns += 1
        idle: Any = self._pool
        if idle.use_lifo:
            idle.queue.append(record)
        else:
            idle.queue.appendleft(record)
        if self._line.waiters:
            self._line.serve()

    def tidy(self) -> None:
        """After a verb returned its connection by itself: do what that one return left to do."""
        if self.watcher is not None and len(self.watcher.uses) >= _FOLD_AT:
            self.watcher.fold()
        if self._line.waiters:
            self._line.serve()
        self._drop_returned()
        idle: Any = self._pool
        while len(idle.queue) > idle.maxsize and (surplus := self._idle()) is not None:
            self._drop_surplus(surplus)

    def _note_return(self, state: SessionState) -> float:
        """Note how long the connection was used; return what the clock says."""
        watcher, checkout = self.watcher, state.checkout
        now, since = perf_counter(), checkout.checked_out_at
        if since and watcher is not None:
            checkout.checked_out_at = 0.0
            uses = watcher.uses
            uses.append(now - since)
            if watcher.wants_checkouts or checkout.leaked:
                watcher.checked_in(state, now - since)
            if len(uses) >= _FOLD_AT:
                watcher.fold()
        return now

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        state = record.info.get(SESSION_KEY) or self._prefiq.session_in(record.info)
        watcher, checkout = self.watcher, state.checkout
        now = self._note_return(state)
        # Also after an invalidation: then no caller returns the connection, or needs to.
        checkout.fairy_ref = None
        if record.dbapi_connection is not None and (checkout.tainted or not self._is_at_rest(record)):
            # The session's settings changed, or a transaction is still open; the next user must not inherit that.
            reason = _SESSION_CHANGED if checkout.tainted else self._why_not_at_rest(record)
            record.invalidate()
            if watcher is not None:
                watcher.lost(reason)
        # A detached or invalidated record has no connection, and the state belongs to the connection.
        if record.dbapi_connection is not None:
            state.forget()
            state.last_used = now
            slot: Any = record
            slot.session = state
        else:
            state.statement.reset()  # the call has what its caller gave it, and the slot may stay empty for long
        super()._do_return_conn(record)
        if self._line.waiters:
            self._line.serve()

    @property
    def _prefiq(self) -> PrefiqDialect:
        dialect: PrefiqDialect = self._dialect  # type: ignore[assignment]
        return dialect

    def _unfit(self, record: Any) -> str | None:
        """Return why a connection must not be handed out, or ``None`` if it may be."""
        dialect: Any = self._dialect
        state = record.info.get(SESSION_KEY) or dialect.session_in(record.info)
        now = perf_counter()
        if now >= state.expires_at:
            return _AGE
        if dialect.has_sockets:
            if dialect.is_unheard(record.dbapi_connection):
                if not self._hears(record):
                    return _DEAD
            else:
                descriptor = dialect.socket_of(record.dbapi_connection)
                if descriptor is not None and is_readable(descriptor):
                    return _DEAD
        if not self._is_at_rest(record):
            return _NOT_AT_REST
        state.vetted_at = now
        if dialect.follows_primary and (reason := self._why_not_primary(record, state, now)) is not None:
            return reason
        if now - state.last_used < self.limits.ping_after_idle_seconds:
            return None
        if self._is_given_up(record) or self._answer(record, state, dialect.do_ping):
            state.vetted_at = perf_counter()
            return None
        return _NO_ANSWER

    def _why_not_primary(self, record: Any, state: SessionState, now: float) -> str | None:
        """Return why the connection no longer leads to the primary; then the older ones don't, either."""
        if self._is_given_up(record):
            return None
        dialect: Any = self._dialect
        fits: bool | None = not dialect.says_demoted(record.dbapi_connection)
        if fits and dialect.asks_role and now - state.role_known_at >= self.limits.ask_role_after_seconds:
            fits = self._answer(record, state, dialect.fits)
            state.role_known_at = perf_counter()
        if fits is False:
            dialect.leave_host(self)
        return None if fits else _NO_ANSWER if fits is None else _DEMOTED

    def _is_given_up(self, record: Any) -> bool:
        """Return whether all connections as old as *record*'s were given up: it is replaced, and needn't be asked."""
        return bool(self._invalidate_time > record.starttime)

    def _hears(self, record: Any) -> bool:
        """Read a reply that nobody waited for; the verbs can go on without the rest of it, others wait."""
        dialect: Any = self._dialect
        connection = record.dbapi_connection
        if _within_a_verb():
            return bool(dialect.hears_all(connection))
        limit = checkout_deadline(self.limits.connect_timeout_seconds, CONNECT_TIMEOUT)
        dialect.set_patience(connection, limit.left() / 2)
        dialect.session_in(record.info).patience_seconds = None
        try:
            return bool(dialect.hear_out(connection))
        except (dialect.loaded_dbapi.Error, OSError) as error:
            if is_interruption(error):
                raise
            return False

    def _is_at_rest(self, record: Any) -> bool:
        """Return whether no transaction was open at the server's last reply; ``False`` for a broken connection."""
        dialect: Any = self._dialect
        try:
            return bool(dialect.is_at_rest(record.dbapi_connection))
        except (dialect.loaded_dbapi.Error, ValueError) as error:
            if is_interruption(error):
                raise
            return False

    def _why_not_at_rest(self, record: Any) -> str:
        return _DEAD if self._prefiq.socket_of(record.dbapi_connection) == -1 else _NOT_AT_REST

    def _renew(self, record: Any, reason: str) -> None:
        """Throw the connection away and open another one in its slot at once."""
        limit = self.limits.connect_timeout_seconds
        rest = Deadline(time.monotonic() + limit / 2, limit, CONNECT_TIMEOUT)
        is_no_news = reason == _AGE or self._is_given_up(record)
        record.invalidate()
        if self.watcher is not None:
            self.watcher.lost(reason)
        self._prefiq.doubt_host(is_no_news)
        if reason == _NO_ANSWER:
            # The ping took up to half of the time for connecting; the other half is for the new connection.
            with checkout_by(rest):
                record.get_connection()

    def _answer(self, record: Any, state: SessionState, ask: Callable[[Any], Any]) -> bool | None:
        """Return what *ask* says after one round trip; ``None`` on any error of the driver, including a timeout."""
        dialect: Any = self._dialect
        connection = record.dbapi_connection
        # Half of the time for connecting: without a reply, the other half is for a new connection.
        limit = checkout_deadline(self.limits.connect_timeout_seconds, CONNECT_TIMEOUT)
        dialect.set_patience(connection, limit.left() / 2)
        state.patience_seconds = None
        try:
            return bool(ask(connection))
        except (dialect.loaded_dbapi.Error, OSError) as error:
            if is_interruption(error):
                raise
            return None


def _task_name() -> object:
    """Return the name of the running task, if there is one; only reports use it.

    Not the task: it has its context, and that knows the transaction, so one that is dropped unclosed would live on.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop runs here
        return None
    return None if task is None else task.get_name()


class PrefiqPool(_VettingPool):
    """The pool of sync engines."""

    _queue_class = IdleConnections

    __module__ = "prefiq_db.pool"  # SQLAlchemy names the pool's logger by it


class AsyncPrefiqPool(_VettingPool, AwaitedCheckouts, AsyncAdaptedQueuePool):
    """The pool of async engines."""

    _queue_class = IdleConnections

    __module__ = "prefiq_db.pool"
