"""The connection of a usual transaction: taken and begun, committed, and returned, each in one function.

As on the other short ways nothing is decided here. Where anything isn't usual, nothing was done, and the longer way
does it; what fails is handed to that one, too.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import Any

from prefiq_db.errors import PrefiqDbError
from prefiq_db.execution.direct import DirectRoad
from prefiq_db.execution.pinned import Pinned
from prefiq_db.insight.statistics import FOLD_AT
from prefiq_db.origin import line_of_the_verb


def begin_usually(road: DirectRoad, pinned: Pinned, number: int, retry_number: int) -> bool:
    """Take an idle connection for a transaction that nothing was chosen for, and begin it; or do nothing.

    Args:
        number: the block's, as in events.

    Returns:
        whether it was done.

    Raises:
        PrefiqDbError: BEGIN failed; *pinned* has returned its connection.
    """
    audience = road._audience
    if road.steps_aside or audience.is_there():
        return False
    lane, dialect = audience.lane, audience.dialect
    if lane is None or lane.waiters or audience.watcher.wants_checkouts:
        return False
    pool, now, returns = lane.pool, perf_counter(), 0
    record: Any = None
    failure: BaseException | None = None
    try:
        try:
            take = lane.take
            record = take()
        except IndexError:
            return False
        returns, raw, state = record.returns, record.dbapi_connection, record.session
        if (
            raw is None
            or state is None
            or now >= state.expires_at
            or now - state.last_used >= lane.ping_after_idle_seconds
            or pool._invalidate_time > record.starttime
            or record._soft_invalidate_time > record.starttime
            or not dialect.is_ready(raw, state, now)
        ):
            pool.put_back(record)
            return False
        checkout = state.checkout
        checkout.checked_out_at = now
        worker = lane.worker
        checkout.worker = worker()
        checkout.retry_number = retry_number
        lane.waits.append(0.0)
        # begin() of a block called, and that was called by the core, at least twice: the application is no nearer.
        pinned.hold(record, state, line_of_the_verb(5))
        state.begin_plainly(number)
        dialect.begin_usually(state, raw)
    except BaseException as error:
        if pinned._connection_record is None:
            if record is not None and record.returns == returns and record.place is not None:
                pool._drop(record)
            raise
        failure = error
    if failure is None:
        pinned._is_begun = True
        return True
    try:
        road.border.cross(partial(pinned.begin_broke, failure), pinned.phase)
    except PrefiqDbError:
        # The server has replied: the connection is still usable.
        pinned.close()
        raise
    finally:
        failure = None


def may_commit_usually(road: DirectRoad, pinned: Pinned) -> bool:
    """Return whether nothing is left to decide before the COMMIT of the transaction on *pinned*."""
    audience, record, state = road._audience, pinned._connection_record, pinned.state
    transaction = state.transaction
    return (
        not road.steps_aside
        and not audience.is_there()
        and audience.lane is not None
        and pinned.view is None
        and record is not None
        and record.returns == pinned._returns
        and record.place is not None
        and transaction.began
        and transaction.aborted is None
        and not transaction.only_reads
        and transaction.control_timeout is None
        and audience.dialect.is_ready_inside(pinned.dbapi_connection, state, perf_counter())
    )


def commit_usually(road: DirectRoad, pinned: Pinned) -> BaseException | None:
    """Commit; return what broke it off, for :meth:`Pinned.commit_broke`."""
    transaction, dialect = pinned.state.transaction, road.dialect
    try:
        dialect.check_not_ended(pinned.dbapi_connection)
        transaction.committing = True
        tag = dialect._send_commit(pinned.dbapi_connection)
        transaction.committing = False
        dialect.note_committed(transaction, tag)
        pinned._is_begun = False
    except BaseException as error:  # noqa: BLE001 - the longer way raises it
        return error
    return None


def return_usually(road: DirectRoad, pinned: Pinned) -> bool:
    """Return the connection of a transaction that :func:`commit_usually` committed; return whether that was done."""
    audience, record, state = road._audience, pinned._connection_record, pinned.state
    lane = audience.lane
    if lane is None or record is None or pinned.view is not None:
        return False
    pool, checkout = lane.pool, state.checkout
    if (
        record.returns != pinned._returns
        or record.place is None
        or record.pool is not pool  # that of the engine was replaced meanwhile
        or record.finalize_callback
        or checkout.tainted
        or checkout.leaked
        or pool._retired
        or audience.watcher.wants_checkouts
        or not audience.dialect.is_at_rest(pinned.dbapi_connection)
    ):
        return False
    since, returns = checkout.checked_out_at, record.returns
    pinned._let_go()
    pinned.dbapi_connection = None
    try:
        state.forget_transaction()
        state.last_used = used = perf_counter()
        uses = lane.uses
        uses.append(used - since)
        # From here on another caller may already hold it, or have returned it, too.
        record.returns = returns + 1
        put = lane.put
        put(record)
        if lane.waiters or len(uses) >= FOLD_AT or len(lane.idle) > lane.size or pool._retired:
            pool.tidy()
    except BaseException:
        if record.returns == returns:
            pool._drop(record)
        else:
            pool.tidy()  # it is back, and those who wait were perhaps not told
        raise
    return True
