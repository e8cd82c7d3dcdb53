"""The short way of one_shot.py for a task: it waits for the pool and for the driver, and for nothing else.

The steps are those of :meth:`~prefiq_db.execution.one_shot.ShortRoad.shoot`. What isn't usual is left to
``awaited_shot.py``, with the connection that was already waited for; what fails is ended under the bridge.
"""

from __future__ import annotations

from logging import DEBUG
from time import perf_counter
from typing import Any, Final

from sqlalchemy import Row

from prefiq_db.bridge import end_after
from prefiq_db.call import Reads, Shape, Told
from prefiq_db.dialects.awaiting import Reply
from prefiq_db.execution.direct import DirectRoad
from prefiq_db.execution.one_shot import LEAVING, READING, SENDING, TAKING, Flight
from prefiq_db.execution.prepared import Prepared
from prefiq_db.insight.statement_observer import LEVELS
from prefiq_db.insight.statistics import FOLD_AT

_EVERY_ROW, _FIRST_ROW = Reads.EVERY_ROW, Reads.FIRST_ROW
_UNREAD: Final = Reply(None, ())


class Unusual:
    """Nothing was sent.

    Attributes:
        record: the place in the pool that the caller has already waited for, if any.
        since: when that wait began, on the clock of ``perf_counter``.
    """

    __slots__ = ("record", "since")

    def __init__(self, record: Any = None, since: float = 0.0) -> None:
        self.record = record
        self.since = since


_UNUSUAL: Final = Unusual()


async def shoot_awaited(
    road: DirectRoad, prepared: Prepared, statement: Any, params: Any, shape: Shape, told: Told | None, now: float
) -> Any:
    """Return what *shape* reads of a statement, or an :class:`Unusual`; arguments and errors as of ``shoot()``."""
    audience = road._audience
    if audience.is_there() or road.steps_aside:
        return _UNUSUAL
    lane, dialect, observer = audience.awaited_lane, audience.dialect, audience.observer
    if (
        lane is None
        or audience.watcher.wants_checkouts
        or observer.acts_before  # who listens is told on the longer way
        or observer.tells_finished
        or DEBUG not in LEVELS
        or LEVELS[DEBUG]
    ):
        return _UNUSUAL
    compiled, taken = prepared.compiled(), prepared.taken  # kept here: SQLAlchemy may drop it at any time
    is_taken = prepared.keys is not None and (not params or taken.issuperset(map(type, params.values())))
    if compiled is None or prepared.may_wait or not (is_taken or prepared.is_read_alike(params)):
        return _UNUSUAL
    pool = lane.pool
    record: Any = None
    reply: Any = _UNREAD
    parameters: Any = None
    failure: BaseException | None = None
    returns, step, waited = 0, TAKING, 0.0
    try:
        try:
            if lane.waiters or not lane.idle:  # new callers must not overtake waiting ones
                if not lane.waiters and not pool._is_full():
                    return _UNUSUAL  # there is room for one more
                record = await pool.wait_awaited()
                started, now = now, perf_counter()
                waited = now - started
                if (  # somebody may listen by now
                    audience.is_there()
                    or audience.watcher.wants_checkouts
                    or observer.acts_before
                    or observer.tells_finished
                ):
                    return Unusual(record, started)
            else:
                record = lane.take()
            returns, raw = record.returns, record.dbapi_connection
            state = record.session
            if (
                raw is None
                or state is None
                or now >= state.expires_at
                or now - state.last_used >= lane.ping_after_idle_seconds
                or pool._invalidate_time > record.starttime
                or record._soft_invalidate_time > record.starttime
                or not dialect.is_ready(raw, state, now)
                or (prepared.decimals is not None and not dialect.has_checked(raw, prepared.decimals))
            ):
                return Unusual(record, now - waited)
            checkout, note = state.checkout, state.statement
            checkout.checked_out_at = now
            checkout.wait_seconds = waited
            checkout.worker = lane.worker()
            checkout.one_shot = True
            lane.waits.append(waited)
            step = SENDING
            order = prepared.order
            if not is_taken:
                parameters = prepared.bound(params)
                values = parameters.values() if order is None else parameters
                if not dialect.values.takes(values):
                    shot = road.shot_of(Flight(prepared, statement, params, shape, told, record, reply, parameters))
                    parameters = dialect.values.one(parameters, prepared.sql, shot, dialect.knows)
            elif order is None:
                parameters = {} if params is None else dict(params)
            else:
                parameters = tuple(map(params.__getitem__, order)) if order else ()
            known = prepared.noted
            if known is None:
                prepared.noted = known = observer.look_up(prepared.sql, compiled)
            note.call, note.summary = told, known.summary
            note.sent_at = sent_at = perf_counter()
            try:
                reply = await dialect.execute_awaited(raw, prepared.sql, parameters)
            except Exception as error:  # noqa: BLE001 - SQLAlchemy's adapter raises what its users expect
                raw._handle_exception(error)
            duration = perf_counter() - sent_at
            note.sent_at = 0.0
            durations = known.durations
            durations.append(duration)
            rows = reply.rowcount
            if rows > 0:
                known.rows.append(rows)
            if duration >= lane.slow_seconds or len(durations) >= FOLD_AT:
                observer.note_more(known, duration, rows, state)
            columns, found = dialect.columns_of(reply), prepared.format
            step = READING
            reads = shape.reads
            if (
                reads is None
                or columns is None
                or found is None
                or (found.columns is not None and found.columns != columns)
            ):
                flight = Flight(prepared, statement, params, shape, told, record, reply, parameters)
                fetched = road.shot_of(flight).read(columns)
            else:
                metadata, processors, places = found.metadata, found.processors, found.key_to_index
                if reads is _EVERY_ROW:
                    fetched = [Row(metadata, processors, places, row) for row in reply.rows]
                elif reply.rows:
                    fetched = Row(metadata, processors, places, reply.rows[0])
                    if reads is not _FIRST_ROW:
                        fetched = fetched[0]
                else:
                    fetched = None
            step = LEAVING
            if dialect.is_at_rest(raw):  # only a statement that left no open transaction counts as done
                if checkout.tainted or checkout.leaked or pool._retired or len(lane.idle) >= lane.size:
                    await pool.give_back_awaited(record)
                    return fetched
                # Of what is known of the session, a statement that succeeded changed no more than this.
                note.call, note.summary = None, ""
                checkout.one_shot = False
                checkout.worker = None
                checkout.checked_out_at = checkout.wait_seconds = 0.0
                state.last_used = used = perf_counter()
                uses = lane.uses
                uses.append(used - now)
                # From here on another caller may already hold it, or have returned it, too.
                record.returns = returns + 1
                lane.put(record)
                if lane.waiters or len(uses) >= FOLD_AT:
                    pool.tidy()
                return fetched
        except BaseException as error:  # noqa: BLE001 - the shot that ends it raises it
            failure = error
        is_ours = record is not None and record.returns == returns and record.place is not None
        held = record if is_ours else None
        if record is not None and not is_ours:
            await end_after(failure, pool.tidy)  # it is back, and those who wait were perhaps not told
        flight = Flight(prepared, statement, params, shape, told, held, reply, parameters)
        return await end_after(failure, road.fly, road.broken_shot(flight, step, failure))
    except BaseException as error:
        if record is not None and record.returns == returns and record.place is not None:
            await end_after(error, pool._drop, record)
        raise
    finally:
        del failure  # its traceback holds this frame
