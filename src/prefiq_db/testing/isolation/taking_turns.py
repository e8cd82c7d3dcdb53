"""The pool of a test: one connection, in the test's transaction; who wants it waits for the one who has it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any, Final

from prefiq_db.errors import PoolTimeoutError, UsageError
from prefiq_db.masking import border_translates
from prefiq_db.pool.vetting import AsyncPrefiqPool, PrefiqPool, _VettingPool
from prefiq_db.testing.isolation.enclosure import COMMITTED, Enclosure
from prefiq_db.testing.isolation.loop_keeper import LoopKeeper
from prefiq_db.translation.both import of_both

_ONE: Final = "in this test's fixture everything runs on one connection, and another user has it"


class TurnsPool(_VettingPool):
    """Mixed in before our pools, with the size 1."""

    enclosure: Enclosure
    _held: Any = None

    def _do_get(self) -> Any:
        enclosure = self.enclosure
        enclosure.check()
        record: Any = super()._do_get()
        try:
            raw = record.dbapi_connection
            if not enclosure.began:
                self._begin(raw)
            elif raw is not enclosure.raw:
                enclosure.lost = "its connection was closed: by an error, a cancellation, or the end of the session"
                enclosure.check()
        except BaseException:
            self._drop(record)
            raise
        self._held = record
        return record

    def _begin(self, raw: Any) -> None:
        dialect: Any = self._dialect
        dialect.begin_outer(raw)

    def _make_or_wait(self) -> Any:
        held = self._held
        if held is not None and held.dbapi_connection is not None:
            worker = self._prefiq.session_in(held.info).checkout.worker
            if worker is not None and worker == self.current_worker():
                raise of_both(
                    UsageError(
                        f"{_ONE}: this very task or thread, by a stream, a session or a connection of the engine "
                        "that is still open. End that first, or run both in one transaction() through its tx; or "
                        f"{COMMITTED}"
                    )
                )
        return super()._make_or_wait()

    def _timed_out(self, seconds: float) -> Exception:
        watcher: Any = self.watcher
        failure = PoolTimeoutError(
            f"{_ONE}; it did not come back within {seconds:g} s. Let the two take turns, or {COMMITTED}"
        )
        if border_translates.get():
            return failure
        failure.args = (f"{failure}\nwho has it:\n{watcher.table()}",)
        return of_both(failure)

    def _do_return_conn(self, record: Any) -> None:
        self._held = None
        state = self._prefiq.session_in(record.info)
        if state.checkout.tainted and record.dbapi_connection is not None and self._is_at_rest(record):
            # What the session was told holds to the end of the test; without its connection the test would end here.
            state.checkout.tainted = False
        super()._do_return_conn(record)

    def recreate(self) -> Any:
        recreated: Any = super().recreate()
        recreated.enclosure = self.enclosure
        return recreated

    def drop_held(self) -> None:
        """Close the connection of somebody who never gave it back."""
        held, self._held = self._held, None
        if held is not None and held.dbapi_connection is not None:
            held.invalidate()


class SyncTurns(TurnsPool, PrefiqPool):
    """The pool of a sync test."""

    __module__ = "prefiq_db.pool"


class _Kept(AsyncPrefiqPool):
    """A pool that is closed before its event loop is."""

    keeper: LoopKeeper

    def cut(self) -> None:
        """End the sockets of all connections, so that the server undoes what they did; for a closed loop."""
        dialect: Any = self._dialect
        for place in list(self._places):
            slot = place()
            if slot is not None and slot.dbapi_connection is not None and dialect.has_sockets:
                _end_socket(dialect.socket_of(slot.dbapi_connection))


def _end_socket(number: int | None) -> None:
    """End the connection of a socket; its file number stays its owner's."""
    if number is not None and number >= 0:
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as mine:
            mine.shutdown(socket.SHUT_RDWR)


class AsyncTurns(TurnsPool, _Kept):
    """The pool of an async test."""

    __module__ = "prefiq_db.pool"

    def _begin(self, raw: Any) -> None:
        super()._begin(raw)
        self.keeper.start()


class AsyncKept(_Kept):
    """The pool of an async test that commits: as in production, and closed before its event loop is."""

    __module__ = "prefiq_db.pool"

    def _do_get(self) -> Any:
        self.keeper.start()
        return super()._do_get()

    def recreate(self) -> Any:
        recreated: Any = super().recreate()
        recreated.keeper = self.keeper
        return recreated
