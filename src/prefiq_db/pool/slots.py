"""The connections of a pool, counted by the records that are alive.

SQLAlchemy's pool counts up and down, and an interruption in between (a signal, a job queue's time limit, a
cancellation) loses a slot for good. Here a slot is its record, and a record without a holder doesn't count.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import Any

from sqlalchemy.pool import QueuePool
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util.queue import Empty, Full

from prefiq_db.bridge import can_await
from prefiq_db.interruptions import is_interruption


class Slot(_ConnectionRecord):
    """A place in the pool, and its connection, once it is opened.

    Attributes:
        place: its entry in the pool's count; ``None`` when it doesn't count.
        interruption: an interruption from outside during the return to the pool, which SQLAlchemy only logs.
        session: the state of its connection, once that has come back.
        returns: how often it was handed to the pool: once it was, only the pool knows its next holder.
    """

    place: weakref.ref[Slot] | None = None
    interruption: BaseException | None = None

    def __init__(self, pool: SlottedPool) -> None:
        super().__init__(pool, connect=False)
        self.pool = pool
        self.pid = os.getpid()
        # Every statement reads them, and CPython 3.11 finds a class's attributes more slowly than an object's.
        self.returns = 0
        self.session: Any = None
        self._soft_invalidate_time = 0.0

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        if e is not None and isinstance(e, Exception) and is_interruption(e):
            self.interruption = e
        super().invalidate(e, soft)

    def __del__(self) -> None:
        # Only for a slot that an interruption dropped: a normal release first removes it from the count.
        if self.place is not None and self.pid == os.getpid():
            self.pool.fallen(self)


class SlottedPool(QueuePool):
    """A queue of connections whose count stays right after any interruption."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._places: set[weakref.ref[Slot]] = set()
        # taken out of the queue, for whoever may wait to close
        self._leaving: list[Any] = []
        #: whether each connection that comes back is closed
        self._retired = False
        super().__init__(*args, **kwargs)
        # Reentrant: the garbage collector may call into here in a thread that already holds the lock.
        self._overflow_lock = threading.RLock()  # type: ignore[assignment]

    @property
    def _overflow(self) -> int:
        return len(self._places) - self._pool.maxsize

    @_overflow.setter
    def _overflow(self, count: int) -> None:
        """Ignore SQLAlchemy's own counting."""

    def close_returning(self, closes: bool) -> None:
        """Close each connection that comes back from now on, or no longer."""
        self._retired = closes

    def retire(self, retired: bool) -> None:
        """Hand out no idle connection any more, and close each that comes back from now on; or no longer.

        It doesn't wait: :meth:`dispose` closes those that are idle now.
        """
        self.close_returning(retired)
        while retired and (slot := self._idle()) is not None:
            self._leaving.append(slot)
            self._retire(slot)

    def _is_full(self) -> bool:
        return -1 < self._max_overflow <= self._overflow

    def _reserve(self) -> Slot | None:
        """Return an empty slot to connect in; ``None`` if the pool is full."""
        if self._is_full():
            return None
        slot = Slot(self)
        place = weakref.ref(slot, self._places.discard)
        hash(place)  # kept by it: once the slot is gone, it can't be worked out any more, and discard() needs it
        with self._overflow_lock:
            if self._is_full():
                return None
            slot.place = place
            self._places.add(place)
        return slot

    def _retire(self, slot: Any) -> None:
        """Remove *slot* from the count."""
        place, slot.place = slot.place, None
        self._places.discard(place)

    def _drop(self, slot: Any) -> None:
        """Close the connection in *slot*, whose state is unknown, and free its place."""
        try:
            slot.invalidate()
        finally:
            self._retire(slot)
            self._has_room()

    def _has_room(self) -> None:
        """Notify waiting callers that there may be room."""

    def fallen(self, slot: Slot) -> None:
        """Close the connection of a slot that lost its holder without being returned; the pool no longer has it."""
        self._retire(slot)
        connection = slot.dbapi_connection
        dialect: Any = self._dialect
        try:
            if connection is not None and not self._is_asyncio:
                dialect.do_close(connection)
            elif connection is not None:
                dialect.close_now(connection)
        except Exception as error:  # noqa: BLE001 - there is no caller to raise to
            self.logger.debug("closing a connection that nobody held failed: %s", type(error).__name__)
        self._has_room()

    # --- overrides of SQLAlchemy's methods -------------------------------------------------------

    def _return_conn(self, record: Any) -> None:
        returns = record.returns
        try:
            self._do_return_conn(record)
        except BaseException:
            if record.returns == returns:
                self._drop(record)
            else:
                self._has_room()  # it is back, and those who wait were perhaps not told
            raise
        if record.interruption is not None:
            interruption, record.interruption = record.interruption, None
            raise interruption

    def _do_return_conn(self, record: Any) -> None:
        # From here on another caller may already hold it, or have returned it, too, whatever interrupts us.
        record.returns += 1
        if self._retired:
            self._drop_surplus(record)
            return
        try:
            self._pool.put(record, False)
        except Full:
            self._drop_surplus(record)
            return
        self._drop_returned()

    def _drop_returned(self) -> None:
        """Close what came back at the moment in which the pool was retired: nobody looks into the queue any more."""
        while self._retired and (slot := self._idle()) is not None:
            self._drop_surplus(slot)

    def _drop_surplus(self, record: Any) -> None:
        try:
            record.close()
        finally:
            self._retire(record)
            self._has_room()

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        dialect: Any = self._dialect
        close = dialect.do_terminate if terminate else dialect.do_close
        if self._is_asyncio and not can_await():
            close = dialect.close_now  # a task that left the line with a gift, or a coroutine that is being closed
        try:
            close(connection)
        except BaseException as error:
            if not is_interruption(error):
                self.logger.error("Exception closing connection %r", connection, exc_info=True)
                return
            if not isinstance(error, asyncio.CancelledError):
                # Interrupted in the middle: the server's session must not stay open until the garbage collector runs.
                close(connection)
            raise

    def dispose(self) -> None:
        """Close the idle connections, all of them even after a cancellation or another interruption."""
        try:
            while (slot := self._to_close()) is not None:
                self._drop_surplus(slot)
        except BaseException:
            self._drop_idle()
            raise
        self.logger.info("Pool disposed. %s", self.status())

    def _drop_idle(self) -> None:
        while (slot := self._to_close()) is not None:
            try:
                slot.invalidate()
            except Exception as error:  # noqa: BLE001 - another error is being raised already
                self.logger.debug("closing an idle connection failed: %s", type(error).__name__)
            finally:
                self._retire(slot)

    def _to_close(self) -> Any:
        try:
            return self._leaving.pop()
        except IndexError:
            return self._idle()

    def _idle(self) -> Any:
        try:
            return self._pool.get(False)
        except Empty:
            return None
