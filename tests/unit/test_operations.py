"""Events of a call become one operation, whatever number of attempts it took."""

from __future__ import annotations

import time
from typing import Any

from prefiq_db.errors import ErrorKind
from prefiq_db.events import CallFinished, CallStarted, Origin, StatementFailed, StatementFinished
from prefiq_db.integrations.operations import Operation, OperationListener

ORIGIN = Origin("app.py", 7, "handler")


class Recorded:
    """A listener, and the operations it told of."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.listener = OperationListener(self.operations.append, lambda: "context")

    def one(self) -> Operation:
        (operation,) = self.operations
        return operation


def finished(call_id: int | None = 1, **fields: Any) -> StatementFinished:
    given = {"operation": "SELECT", "summary": "SELECT item", "duration_seconds": 0.25, "rows": 3, **fields}
    return StatementFinished("main", "select 1", {}, call_id=call_id, **given)


def failed(call_id: int | None = 1, **fields: Any) -> StatementFailed:
    given = {"summary": "SELECT item", "duration_seconds": 0.25, "kind": ErrorKind.DEADLOCK, "code": "40P01", **fields}
    return StatementFailed("main", "select 1", {}, call_id=call_id, **given)


def test_a_call_of_one_statement_is_one_operation() -> None:
    recorded = Recorded()
    before = time.time_ns()
    recorded.listener.call_started(CallStarted("main", 1, "fetch_all", ORIGIN))
    recorded.listener.statement_finished(finished())
    assert recorded.operations == [], "it hasn't ended"
    recorded.listener.call_finished(CallFinished("main", 1, "fetch_all", 0.5))
    operation = recorded.one()
    assert (operation.verb, operation.rows, operation.retries, operation.kind) == ("fetch_all", 3, 0, None)
    assert before <= operation.started_ns <= time.time_ns()
    assert operation.ended_ns - operation.started_ns == 500_000_000
    assert (operation.origin, operation.context) == (ORIGIN, "context")


def test_attempts_of_a_call_are_one_operation() -> None:
    """It ends well when the last attempt did, and says how many came before it."""
    recorded = Recorded()
    recorded.listener.call_started(CallStarted("main", 1, "fetch_all"))
    recorded.listener.statement_failed(failed())
    recorded.listener.statement_failed(failed(retry_number=1))
    recorded.listener.statement_finished(finished(retry_number=2))
    recorded.listener.call_finished(CallFinished("main", 1, "fetch_all", 2.0, attempts=3))
    operation = recorded.one()
    assert (operation.retries, operation.kind, operation.code, operation.rows) == (2, None, None, 3)
    assert operation.duration_seconds == 2.0


def test_a_call_that_fails_says_why() -> None:
    recorded = Recorded()
    recorded.listener.call_started(CallStarted("main", 1, "execute"))
    recorded.listener.statement_failed(failed(kind=ErrorKind.UNIQUE, code=1062))
    recorded.listener.call_finished(CallFinished("main", 1, "execute", 0.5, 1, ErrorKind.UNIQUE, 1062))
    operation = recorded.one()
    assert (operation.kind, operation.code, operation.rows) == (ErrorKind.UNIQUE, 1062, -1)


def test_a_call_that_found_no_connection_is_told_without_a_statement() -> None:
    recorded = Recorded()
    recorded.listener.call_started(CallStarted("main", 1, "execute"))
    recorded.listener.call_finished(CallFinished("main", 1, "execute", 5.0, 4, ErrorKind.POOL_TIMEOUT))
    operation = recorded.one()
    assert (operation.statement, operation.kind, operation.retries) == (None, ErrorKind.POOL_TIMEOUT, 3)


def test_a_call_that_had_nothing_to_send_is_no_operation() -> None:
    recorded = Recorded()
    recorded.listener.call_started(CallStarted("main", 1, "execute_many"))
    recorded.listener.call_finished(CallFinished("main", 1, "execute_many", 0.1))
    assert recorded.operations == []


def test_a_statement_without_a_call_is_an_operation_by_itself() -> None:
    """Sessions and the engine: each statement, with its own duration and its own outcome."""
    recorded = Recorded()
    recorded.listener.statement_finished(finished(call_id=None, origin=ORIGIN))
    recorded.listener.statement_failed(failed(call_id=None))
    well, badly = recorded.operations
    assert (well.verb, well.duration_seconds, well.kind, well.origin) == ("", 0.25, None, ORIGIN)
    assert (badly.kind, badly.code) == (ErrorKind.DEADLOCK, "40P01")
    assert well.ended_ns - well.started_ns == 250_000_000


def test_calls_at_the_same_time_are_kept_apart() -> None:
    recorded = Recorded()
    for call_id in (1, 2):
        recorded.listener.call_started(CallStarted("main", call_id, "fetch_all"))
    recorded.listener.statement_finished(finished(2, rows=22))
    recorded.listener.statement_finished(finished(1, rows=11))
    recorded.listener.call_finished(CallFinished("main", 1, "fetch_all", 0.5))
    recorded.listener.call_finished(CallFinished("main", 2, "fetch_all", 0.5))
    assert [operation.rows for operation in recorded.operations] == [11, 22]


def test_a_call_that_began_before_we_listened_leaves_nothing_behind() -> None:
    recorded = Recorded()
    recorded.listener.statement_finished(finished(9))
    recorded.listener.call_finished(CallFinished("main", 9, "fetch_all", 0.5))
    assert recorded.one().verb == ""
    assert recorded.listener._calls == {}


def test_rows_changed_are_not_rows_returned() -> None:
    recorded = Recorded()
    recorded.listener.statement_finished(finished(call_id=None, operation="INSERT", rows=5))
    assert recorded.one().rows == -1
