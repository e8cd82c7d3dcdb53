"""Checkouts of the async pool that are awaited, without a greenlet where nothing has to bridge.

What is decided is the pool's own: who is next, whether a connection is fit, which limit holds. Opening a connection,
pinging it and closing it bridge.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from sqlalchemy.util.queue import Empty

from prefiq_db.bridge import end_after, spawn
from prefiq_db.dialects.session import SESSION_KEY
from prefiq_db.masking import border_translates
from prefiq_db.pool.checkout_deadline import checkout_deadline


class AwaitedCheckouts:
    """Mixed into the async pool."""

    _dialect: Any
    _invalidate_time: float
    _line: Any
    _pool: Any
    _recycle: int
    _retired: bool
    _timeout: float
    dispatch: Any
    limits: Any
    watcher: Any
    _note_checkout: Any
    _reserve: Any
    _timed_out: Any
    _drop: Any
    _unfit: Any
    _make_fit: Any
    _renew: Any
    give_back: Any

    async def take_awaited(self, record: Any = None, since: float = 0.0) -> Any:
        """Return a place in the pool, as :meth:`take` does: *record*, if that was waited for *since* then."""
        started = perf_counter() if record is None else since
        record = await self._get_awaited(record)
        try:
            if record.dbapi_connection is None or self._is_outdated(record):
                await spawn(record.get_connection)
            if self.watcher is not None:
                self._note_checkout(record, self.watcher, started)
            elif SESSION_KEY not in record.info:
                self._dialect.session_in(record.info)
        except BaseException as error:
            await end_after(error, record._checkin_failed, error, False)
            raise
        return record

    async def _get_awaited(self, record: Any) -> Any:
        try:
            try:
                # New callers must not overtake waiting ones.
                if record is None and not self._line.waiters:
                    record = self._pool.get(False)
            except Empty:
                pass
            if record is None:
                made = None if self._line.waiters else self._reserve()
                record = await self.wait_awaited() if made is None else made
            if self._needs_bridge(record):
                await spawn(self._make_fit, record)
            elif (reason := self._unfit(record)) is not None:
                await spawn(self._renew, record, reason)
            return record
        except BaseException as error:
            if record is not None:
                await end_after(error, self._drop, record)
            raise

    def _is_outdated(self, record: Any) -> bool:
        """Return whether SQLAlchemy would replace the connection of *record*."""
        since = record.starttime
        return bool(self._invalidate_time > since or record._soft_invalidate_time > since or self._recycle > -1)

    def _needs_bridge(self, record: Any) -> bool:
        """Return whether *record* has no connection yet, or one that may have to be asked whether it still fits."""
        dialect = self._dialect
        if record.dbapi_connection is None or (dialect.follows_primary and dialect.asks_role):
            return True
        state = record.info.get(SESSION_KEY)
        idle_since = perf_counter() if state is None else state.last_used
        return bool(perf_counter() - idle_since >= self.limits.ping_after_idle_seconds) or self._dialect.is_unheard(
            record.dbapi_connection
        )

    async def wait_awaited(self) -> Any:
        """Wait in line, and return a connection that became free, or an empty slot to open one in."""
        started = perf_counter()
        seconds = checkout_deadline(self._timeout, "pool_timeout_seconds").left()
        given = await self._line.wait_awaited(seconds)
        if given is not None:
            return given
        if self.watcher is not None:
            self.watcher.waited_in_vain(perf_counter() - started)
        outside = border_translates.get()
        try:
            border_translates.set(True)  # a verb waits, and its border translates
            raise self._timed_out(seconds)
        finally:
            border_translates.set(outside)

    async def give_back_awaited(self, record: Any) -> None:
        """Return a connection, as :meth:`give_back` does."""
        if self._retired or self._pool.full() or record.info[SESSION_KEY].checkout.tainted or self._is_heard(record):
            await spawn(self.give_back, record)
        else:
            self.give_back(record)

    def _is_heard(self, record: Any) -> bool:
        return bool(record.finalize_callback or self.dispatch.checkin)
