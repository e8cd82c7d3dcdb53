"""One statement of a transaction, from the verb to the driver and back: the short way, in one function.

What :mod:`~prefiq_db.execution.one_shot` is to statements that stand alone. It decides nothing: what isn't usual before
the statement is sent is left to the direct road, as if nothing had happened; what fails after that is ended by a
statement of the direct road, which is judged, handled and translated as any of its.
"""

from __future__ import annotations

from logging import DEBUG
from time import perf_counter
from typing import Any, ClassVar, Final, NoReturn, Protocol

from sqlalchemy import Row

from prefiq_db.call import Call, Reads, Shape, Told
from prefiq_db.execution.direct import DirectRoad, PinnedStatement
from prefiq_db.execution.inside import Inside
from prefiq_db.execution.one_shot import UNUSUAL
from prefiq_db.execution.pinned import Pinned
from prefiq_db.execution.prepared import Prepared
from prefiq_db.execution.shapes import OUTCOME, outcome_of_text
from prefiq_db.insight.statement_observer import LEVELS
from prefiq_db.insight.statistics import FOLD_AT

#: How far a statement came: what was done last was to bind its values, to send the BEGIN that it needs, to send it, to
#: look what it did, to read its rows, or to let the direct road read them, which handles its errors itself.
BINDING, BEGINNING, SENDING, LOOKING, READING, HANDLED = range(6)

_EVERY_ROW: Final = Reads.EVERY_ROW
_FIRST_ROW: Final = Reads.FIRST_ROW


class _Context:
    """What is asked of a statement before BEGIN travels with it."""

    __slots__ = ("parameters", "statement")

    executemany: ClassVar[bool] = False
    _is_server_side: ClassVar[bool] = False

    def __init__(self, statement: str, parameters: list[Any]) -> None:
        self.statement, self.parameters = statement, parameters


class Guarding(Protocol):
    """What looks at each statement of the transaction."""

    is_closed: bool

    def admits(self, inside: Inside) -> bool:
        """Return whether a text may be sent, and note what it means for the transaction."""


def shoot_pinned(
    road: DirectRoad,
    pinned: Pinned,
    guard: Guarding,
    prepared: Prepared,
    executed: Any,
    params: Any,
    shape: Shape,
    told: Told | None,
    *,
    is_taken: bool,
) -> Any:
    """Return what *shape* reads of a statement, ``UNUSUAL`` if nothing was sent, or a :class:`BrokenStatement`.

    Args:
        prepared: *params* have exactly what it asks for.
        executed: what SQLAlchemy would execute, the text's own object or the construct.
        told: what events tell of the call; ``None`` while nobody listens.
        is_taken: all values are in *params*, and the driver takes them unchanged.
    """
    audience, inside, compiled = road._audience, prepared.inside, prepared.compiled()
    if road.steps_aside or inside is None or compiled is None or audience.is_there():
        return UNUSUAL
    lane, record, state = audience.lane, pinned._connection_record, pinned.state
    if lane is None or pinned.view is not None or record is None:
        return UNUSUAL
    dialect, observer, raw, transaction = (
        audience.dialect,
        audience.observer,
        pinned.dbapi_connection,
        state.transaction,
    )
    now = perf_counter()
    if (
        record.returns != pinned._returns
        or record.place is None
        or transaction.aborted is not None
        or transaction.wants_commit
        or not dialect.is_ready_inside(raw, state, now)
        or not (guard.admits(inside) if is_taken else not guard.is_closed)
    ):
        return UNUSUAL
    statement: PinnedStatement | None = None
    context: PinnedStatement | _Context | None = None
    cursor: Any = None
    parameters: Any = None
    step, note = BINDING, state.statement
    try:
        note.call, order = None, prepared.order
        if not is_taken:
            parameters = prepared.bound(params)
        elif order is None:
            parameters = {} if params is None else dict(params)
        else:
            parameters = tuple(map(params.__getitem__, order)) if order else ()
        cursor = raw.cursor()
        send = dialect.execute_alone
        if not is_taken:
            step, values = BEGINNING, parameters.values() if order is None else parameters
            if not dialect.values.takes(values):
                statement = _made(PinnedStatement, road, pinned, prepared, executed, params, shape, told)
                statement.cursor, statement.parameters = cursor, [parameters]
                parameters = dialect.values.one(parameters, prepared.sql, statement, dialect.knows)
            guard.admits(inside)
        known = prepared.noted
        if known is None:
            prepared.noted = known = observer.look_up(prepared.sql, compiled)
        note.summary = known.summary
        if transaction.owes_begin:
            step = BEGINNING
            if prepared.key is None:
                context = _Context(prepared.sql, [parameters])
            else:  # the reply that has it is not the only one
                if statement is None:
                    statement = _made(PinnedStatement, road, pinned, prepared, executed, params, shape, told)
                statement.cursor, statement.parameters = cursor, [parameters]
                context = statement
            send = dialect.in_company(send, state, pinned, context)
        step, checkout = SENDING, state.checkout
        if observer.acts_before or observer.tells_finished or checkout.retry_number or LEVELS.get(DEBUG, True):
            if statement is None:
                statement = _made(PinnedStatement, road, pinned, prepared, executed, params, shape, told)
            statement.cursor, statement.parameters = cursor, [parameters]
            observer.observe(send, cursor, prepared.sql, parameters, statement, 1, state)
        else:
            note.sent_at = sent_at = perf_counter()
            send(cursor, prepared.sql, parameters, context)
            duration = perf_counter() - sent_at
            note.sent_at = 0.0
            durations = known.durations
            durations.append(duration)
            rows = cursor.rowcount
            if rows > 0:
                known.rows.append(rows)
            if duration >= lane.slow_seconds or len(durations) >= FOLD_AT:
                observer.note_more(known, duration, rows, state)
            checkout.wait_seconds = 0.0
        step = LOOKING
        if transaction.aborted is not None or not dialect.in_transaction(raw):
            dialect._note_ending(transaction, pinned)
        columns, found, reads = dialect.columns_of(cursor), prepared.format, shape.reads
        if columns is None and shape is OUTCOME and prepared.key is None:
            rows = cursor.rowcount
            cursor.close()
            return outcome_of_text(inside.is_counted, rows)
        if (
            reads is None
            or columns is None
            or found is None
            or (found.columns is not None and found.columns != columns)
        ):
            if statement is None:
                statement = _made(PinnedStatement, road, pinned, prepared, executed, params, shape, told)
                statement.cursor, statement.parameters = cursor, [parameters]
            statement._note_columns(columns)
            step = HANDLED
            return shape.fetch(statement)  # type: ignore[arg-type]  # it has what shapes use of SQLAlchemy's result
        step = READING
        metadata, processors, places = found.metadata, found.processors, found.key_to_index
        if reads is _EVERY_ROW:
            return [Row(metadata, processors, places, row) for row in cursor.fetchall()]
        fetched = cursor.fetchone()
        if fetched is not None:
            fetched = Row(metadata, processors, places, fetched)
            if reads is not _FIRST_ROW:
                fetched = fetched[0]
        cursor.close()  # there may be more rows
        return fetched
    except BaseException as error:  # noqa: BLE001 - the statement that ends it raises it
        broken = _made(BrokenStatement, road, pinned, prepared, executed, params, shape, told)
        broken.cursor, broken.parameters, broken.step, broken.failure = cursor, [parameters], step, error
        if statement is not None:
            broken.call = statement.call
        return broken


class BrokenStatement(PinnedStatement):
    """A statement that was broken off on the short way; to let it go ends it.

    Attributes:
        step: what was done last.
        failure: what broke it off.
    """

    __slots__ = ("failure", "step")

    failure: BaseException | None
    step: int

    def go(self) -> NoReturn:
        failure, self.failure = self.failure, None
        assert failure is not None, "it goes once"
        step, sql, parameters = self.step, self.prepared.sql, self.parameters[0]
        try:
            if step == SENDING:
                failure = self._judged(failure)
            raise failure
        except BaseException as error:
            if step == BINDING:
                self._handle_dbapi_exception(error, sql, [self.call.params], None, None)
            elif step == READING:
                self._handle_dbapi_exception(error, None, None, self.cursor, self)
            elif step != HANDLED:
                self._handle_dbapi_exception(error, sql, parameters, self.cursor, self)
            raise
        finally:
            del failure, parameters

    def _judged(self, failure: BaseException) -> BaseException:
        """Note *failure* as the statement's; return what is to be raised for it."""
        pinned, dialect, prepared = self._dbapi_connection, self.road.dialect, self.prepared
        state, observer = pinned.state, dialect.observer
        note = state.statement
        if note.sent_at:
            sent_at, note.sent_at = note.sent_at, 0.0
            observer.note_failure(  # type: ignore[union-attr]  # without one there is no short way
                prepared.noted, failure, sent_at, self.parameters[0], self, 1, state
            )
        if not isinstance(failure, Exception):
            return failure
        failure = dialect.settle_inside(failure, prepared.sql, state.transaction, pinned, self)
        return dialect.settle(pinned.dbapi_connection, failure)


def _made(
    kind: Any,
    road: DirectRoad,
    pinned: Pinned,
    prepared: Prepared,
    executed: Any,
    params: Any,
    shape: Shape,
    told: Any,
) -> Any:
    """Return a statement of *kind*, for those that look at the execution as a whole."""
    call = Call("statement", executed, params, shape).told_as(told)
    call.prepared = prepared
    pinned.state.statement.call = call
    statement = kind(road, call, prepared, prepared.compiled(), pinned)
    statement._dbapi_connection = pinned
    return statement
