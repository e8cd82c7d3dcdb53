"""Compile statements without sending them, and make SQLAlchemy's results from replies that came in one message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection

from prefiq_db.call import Call
from prefiq_db.dialects.burst_control import MOST_STATEMENTS, CannotTravelError, Pending
from prefiq_db.dialects.session import SessionState
from prefiq_db.execution.enclosable import enclosed
from prefiq_db.execution.statement_facts import Facts, facts_sent
from prefiq_db.execution.tied_statements import LOCK_REASON
from prefiq_db.translation.judging import interruption_in

# SQLAlchemy's events that a batch, which goes past its Connection, would not give.
_EVENTS: Final = (
    *("before_execute", "after_execute", "before_cursor_execute", "after_cursor_execute"),
    *("begin", "commit", "rollback", "savepoint", "rollback_savepoint", "release_savepoint"),
)


def gather(connection: Connection, state: SessionState, calls: Sequence[Call]) -> list[Pending]:
    """Return *calls* compiled by SQLAlchemy, with cursors that wait for their replies; nothing is sent.

    Raises:
        CannotTravelError: if one of them must be sent by itself, or can't be sent at all: then it is to fail in its
            turn, after the statements before it.
    """
    if not _is_unobserved(connection) or len(calls) > MOST_STATEMENTS:
        raise CannotTravelError

    def refuse(statement: str, context: Any) -> None:
        raise CannotTravelError  # a default that SQLAlchemy asks the server for

    taken: Any = connection
    taken._exec_single_context = _keep
    usual, state.checkout.guard = state.checkout.guard, refuse
    state.checkout.gathers = True
    try:
        return [_gathered(taken, each) for each in calls]
    except CannotTravelError:
        raise
    except Exception as error:
        if interruption_in(error) is not None:  # of a signal handler
            raise
        raise CannotTravelError from None  # sent one by one it fails again, and in its turn
    finally:
        state.checkout.guard, state.checkout.gathers = usual, False
        del taken._exec_single_context


def _is_unobserved(connection: Connection) -> bool:
    """Return whether nobody listens to SQLAlchemy's own events: listeners may change what is sent."""
    taken: Any = connection
    dispatch: Any = taken.dialect.dispatch
    if taken._echo or dispatch.do_execute or dispatch.do_execute_no_params:
        return False
    # SQLAlchemy's flags stay up when the last listener is gone, those of the class Engine for the whole process.
    flagged = taken._has_events or taken.engine._has_events
    return not (flagged and any(getattr(taken.dispatch, name) for name in _EVENTS))


def _keep(dialect: Any, context: Any, statement: Any, parameters: Any) -> Any:
    """Replace SQLAlchemy's method that sends a prepared execution: return its context instead."""
    return context


def _gathered(connection: Any, call: Call) -> Pending:
    dialect = connection.dialect
    context = connection.execute(call.statement, call.params)
    if context.executemany or context._is_server_side:
        raise CannotTravelError
    statement, parameters = context.statement, context.parameters[0]
    facts = facts_sent(context, statement, dialect.label)
    unfit = facts.control or facts.several or facts.unsendable or facts.carries_rows
    if unfit or facts.commits or facts.hidden or facts.lingers:
        raise CannotTravelError
    if dialect.gate is not None and dialect.gate.writes(statement, context):
        raise CannotTravelError
    if not parameters and context.no_parameters:
        parameters = None
    else:
        parameters = dialect.values.one(parameters, statement, context, dialect.knows)
    sent = statement if not dialect.bursts_in_block else _in_block(facts, statement, dialect.label)
    pending = Pending(call, context, context.cursor, sent, parameters)
    dialect.burst_statement(pending)
    return pending


def _in_block(facts: Facts, statement: str, label: str) -> str:
    """Return *statement* as it can stand in a block, where the statements between ours must not be missed."""
    fit = enclosed(statement, label) if facts.no_tomorrow in ("", LOCK_REASON) else None
    if fit is None:
        raise CannotTravelError
    return fit


def deliver(connection: Connection, state: SessionState, pending: Pending, failure: Exception | None = None) -> Any:
    """Return what the call's shape fetches from the reply, or raise *failure* as if the statement had raised it.

    Observers and listeners are told now, as after any statement.
    """

    def hand_over(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        if failure is not None:
            raise failure
        assert pending.hand_over is not None, "only an answered statement is delivered"
        pending.hand_over()

    taken: Any = connection
    context, statement, parameters = pending.context, pending.statement, pending.parameters
    state.statement.call = pending.call
    try:
        observer = taken.dialect.observer
        if observer is None:
            hand_over(pending.cursor, statement, parameters, context)
        else:
            observer.observe(hand_over, pending.cursor, statement, parameters, context, 1, state)
        context.post_exec()
        result = context._setup_result_proxy()
    except BaseException as error:  # noqa: BLE001 - SQLAlchemy judges it and decides how to raise it
        taken._handle_dbapi_exception(error, statement, parameters, pending.cursor, context)
    return pending.call.shape.fetch(result)
