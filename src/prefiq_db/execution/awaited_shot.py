"""One statement outside a transaction as a coroutine: it waits for the pool and the driver without a greenlet.

Only what usually happens is here. When something has to be bridged (SQLAlchemy's own code waits there: connecting,
another time limit at the server, a reply that is still to be read), or fails, the shot stops where it is; under the
bridge the direct road goes on from there, so that every error is handled in one place.
"""

from __future__ import annotations

from typing import Any, Final, Self

from prefiq_db.call import Call
from prefiq_db.dialects.awaiting import AwaitingDialect
from prefiq_db.engine_class import connection_failed
from prefiq_db.execution.direct import DirectRoad, DirectShot
from prefiq_db.masking import border_translates
from prefiq_db.pool.checkout_deadline import checkout_by

#: What a shot returns that is to go on under the bridge.
UNDONE: Final = object()


class AwaitedShot(DirectShot):
    """One statement outside a transaction, from the pool and back, in a coroutine."""

    __slots__ = ("_about", "_left_open", "_stopped_by")

    road: DirectRoad

    def __init__(self, road: DirectRoad, call: Call, prepared: Any, compiled: Any) -> None:
        super().__init__(road, call, prepared, compiled)
        self._stopped_by: BaseException | None = None
        #: what SQLAlchemy gets to know of the statement that failed; ``None``: it isn't for SQLAlchemy to handle
        self._about: tuple[Any, ...] | None = None
        self._left_open = False

    @classmethod
    def of(cls, road: DirectRoad, call: Call) -> Self | None:
        """Return the shot of *call*; ``None``: it takes another road."""
        dialect: Any = road.dialect
        if not isinstance(dialect, AwaitingDialect) or dialect.observer is None:
            return None
        if dialect.commenter is not None and call.tags:
            return None
        if dialect.marker is not None or dialect.gate is not None:
            return None  # with replicas, a question travels with a write and a check with a read
        shot = road.direct_shot(call, cls)
        # A type that has to wait does so in a greenlet.
        return None if shot is None or shot.prepared.may_wait else shot

    async def shoot(self, record: Any = None, since: float = 0.0) -> Any:
        """Return what the shape fetches, or ``UNDONE``: then :meth:`go` does the rest, or raises what went wrong.

        *record* is the place in the pool that the caller has already waited for, *since* then, if any.
        """
        outside = border_translates.get()
        try:
            border_translates.set(True)
            return await self._shot(record, since)
        except BaseException as error:  # noqa: BLE001 - go() raises it
            self._stopped_by = error
            return UNDONE
        finally:
            try:
                border_translates.set(outside)
            finally:
                border_translates.set(outside)  # twice: see Border.cross()

    async def _shot(self, record: Any, since: float) -> Any:
        road, call, prepared = self.road, self.call, self.prepared
        dialect: Any = road.dialect
        # The engine may have another pool by now: what was waited for stays its own pool's.
        pool: Any = road.engine.pool if record is None else record.pool
        deadline = call.deadline
        if deadline is None:
            state = self._hold(await pool.take_awaited(record, since))
        else:
            with checkout_by(deadline):
                state = self._hold(await pool.take_awaited(record, since))
        raw = self.dbapi_connection
        seconds = dialect.limits.statement_timeout_seconds if deadline is None else deadline.seconds
        if (
            (dialect.has_sockets and dialect.is_unheard(raw))
            or not dialect.is_bounded(state, raw, seconds)
            or not dialect.sends_awaited(prepared.sql, self.compiled, raw)
        ):
            return UNDONE
        self._about = (None, None, None, None)
        dialect.limit_statements(self, seconds, deadline)
        self.sent = True
        self._about = (prepared.sql, [call.params], None, None)
        parameters = prepared.bound(call.params)
        self.parameters = [parameters]
        self._about = (prepared.sql, parameters, None, self)
        parameters = dialect.values.one(parameters, prepared.sql, self, dialect.knows)
        self.cursor = cursor = await dialect.send_awaited(prepared.sql, parameters, self, state)
        self._note_columns(dialect.columns_of(cursor))
        self._about = None
        fetched = call.shape.fetch(self)  # type: ignore[arg-type]  # it has what shapes use of SQLAlchemy's result
        # Only a statement that left no open transaction counts as done.
        if not dialect.is_at_rest(raw):
            self._left_open = True
            return UNDONE
        self.is_done = True
        await pool.give_back_awaited(self._connection_record)
        return fetched

    def go(self) -> Any:
        error, self._stopped_by = self._stopped_by, None
        if error is not None:
            self._fail(error)
        if self._left_open:
            raise self.road.dialect.not_at_rest(self)
        return super().go() if self._connection_record is None else self._go_on()

    def _fail(self, stopped_by: BaseException) -> None:
        """Raise what stopped the shot, as the direct road does at the same step."""
        about, self._about = self._about, None
        try:
            raise stopped_by
        except BaseException as error:
            if about is not None:
                self._handle_dbapi_exception(error, *about)
            if self._connection_record is None:
                connection_failed(self.road.engine, error)
            raise
        finally:
            del stopped_by, about
