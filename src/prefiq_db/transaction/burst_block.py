"""A transaction whose BEGIN, statements and COMMIT travel in one message."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

from prefiq_db.call import Batch
from prefiq_db.dialects.burst_control import BEGIN, Burst, CannotTravelError
from prefiq_db.dialects.session import SessionState
from prefiq_db.errors import (
    OutcomeUnknownError,
    PermissionDeniedError,
    PrefiqDbError,
    ResultsLostError,
    SchemaError,
)
from prefiq_db.execution.batch_items import name_statement
from prefiq_db.execution.bursts import deliver, gather
from prefiq_db.reports import Outcome
from prefiq_db.transaction.last import results_lost
from prefiq_db.transaction.root import RootBlock
from prefiq_db.transaction.scope import Scope
from prefiq_db.translation.classify import Phase


class BurstBlock(RootBlock):
    """A transaction of statements that are known beforehand; no code of the caller runs in it."""

    _is_sent = False
    _burst: Burst
    _state: SessionState

    def run_batch(self, batch: Batch, *, may_repeat: Callable[[], bool]) -> list[Any]:
        """Begin, run all statements and commit; return their results.

        Args:
            may_repeat: whether it may be sent again when no reply came, without knowing what became of it.

        Raises:
            CannotTravelError: its statements have to be sent one by one; nothing was done.
        """
        self.check_new()
        if not self.instance.road.dialect.has_bursts:
            raise CannotTravelError
        try:
            self._gather(batch)
            self._send_batch(batch)
            results = self._settle(may_repeat)
        finally:
            try:
                self.abandon()
            finally:
                if self._is_sent:
                    self._tell()
        if self.token is not None:
            self._prune()
        return results

    def _gather(self, batch: Batch) -> None:
        """Check out a connection, and prepare all statements on it."""
        self._started = time.perf_counter()
        road, given = self.instance.road, batch.given
        deadline = self._deadline_of_a_step()
        self._pinned = pinned = road.new_pinned(deadline, whole=True)
        state, connection = pinned.state, pinned.connection
        self._state = state
        self.line = state.checkout.line
        state.checkout.one_shot = True  # SQLAlchemy begins nothing: BEGIN is part of the message
        state.begin_with(
            id=self.id,
            retry_number=self.retry_number,
            isolation=None,
            read_only=self.options.read_only,
            token=self.token,
            schema=self.options.schema,
            statement_timeout=None,
            control_timeout=None,
            may_wait=False,
        )
        seconds = self.instance.statement_timeout_seconds if given.timeout is None else given.timeout
        try:
            pending = gather(connection, state, batch.items)
            # First the limits, because BEGIN may say them.
            road.border.cross(lambda: road.dialect.bound_burst(connection, seconds, self.deadline))
            if road.dialect.gate is not None:
                waiting: Any = road.dialect
                road.border.cross(lambda: waiting.wait_for_batch(connection._dbapi_connection, self.deadline))
            begin = road.dialect.burst_begin(state.transaction)
        except CannotTravelError:
            pinned.close()
            raise
        self._burst = Burst(begin, pending)

    # --- send, and judge the reply -----------------------------------------------------------------

    def _send_batch(self, batch: Batch) -> None:
        road, pinned, burst, state = self.instance.road, self._pinned, self._burst, self._state
        assert pinned is not None
        connection = pinned.connection
        scope = self._scope = Scope(self.instance, pinned)
        scope.blocks.append(self)
        self._handle = _Handle(lambda: road.dialect.do_rollback(connection.connection))
        started = time.perf_counter()
        try:
            with scope.used():
                # Until the reply to COMMIT is read the outcome is unknown, and a ROLLBACK is owed.
                self.outcome = Outcome.UNKNOWN
                self._is_sent = True
                state.transaction.began = True
                state.statement.call, state.statement.sent_at = batch, started
                state.statement.summary = f"batch of {len(burst.pending)}"
                road.border.cross(lambda: road.dialect.send_burst(connection._dbapi_connection, burst))
        except BaseException as interruption:
            self._judge_interrupted(interruption)
            raise
        finally:
            state.statement.sent_at = 0.0
        if burst.unread:
            self._is_sent = False
            self._undo()
            raise CannotTravelError
        told = min(burst.answered + (burst.failure is not None), len(burst.pending))
        state.statement.spent = (time.perf_counter() - started) / max(1, told)

    def _judge_interrupted(self, interruption: BaseException) -> None:
        """Note, after a cancellation or another interruption, what became of the batch."""
        token = self.token
        self.scope.doubt()
        if self._burst.surely_failed:
            self.outcome = Outcome.NOT_COMMITTED
        elif self._burst.committed:
            self.outcome = Outcome.COMMITTED
        elif token is not None:
            self.instance.runtime.shielded(lambda: self._note_outcome(token), self.instance.commit_budget_seconds)
        interruption.transaction_outcome = self.outcome  # type: ignore[attr-defined]

    def _note_outcome(self, token: str) -> None:
        self.outcome = self._ask_for_outcome(token)

    def _settle(self, may_repeat: Callable[[], bool]) -> list[Any]:
        burst = self._burst
        if burst.committed:
            self.outcome = Outcome.COMMITTED
            return self._deliver_committed()
        if burst.surely_failed or (not burst.said and may_repeat()):
            return self._fail()
        return self._fail_unsure()

    def _deliver_committed(self) -> list[Any]:
        try:
            results = [self._deliver(number) for number in range(len(self._burst.pending))]
        except PrefiqDbError as error:
            failure = self._results_lost(error, "a result can't be read")
        except BaseException as interruption:
            interruption.transaction_outcome = self.outcome  # type: ignore[attr-defined]
            raise
        else:
            self._end_state()
            self.scope.blocks.clear()
            self._committed()
            return results
        raise failure

    def _deliver(self, number: int, failure: Exception | None = None, phase: Phase = "statement") -> Any:
        road, connection, burst = self.instance.road, self.scope.connection, self._burst
        state, pending = self._state, burst.pending[number]
        try:
            return road.border.cross(lambda: deliver(connection, state, pending, failure), phase)
        except PrefiqDbError as error:
            if failure is None or burst.said:
                name_statement(error, number)
            raise

    def _fail(self) -> NoReturn:
        """Raise the error of a batch of which nothing was committed."""
        self.outcome = Outcome.ACTIVE
        try:
            self._raise_failure("statement")
        finally:
            self._undo()

    def _fail_unsure(self) -> NoReturn:
        """Raise the error of a batch whose COMMIT failed, or got no reply."""
        try:
            self._raise_failure("commit")
        except OutcomeUnknownError as error:
            lost = error
        except PrefiqDbError:
            self.outcome = Outcome.ACTIVE
            self._undo()
            raise
        self._unanswered(lost)
        raise self._results_lost(lost, "its reply was lost")

    def _raise_failure(self, phase: Phase) -> NoReturn:
        burst, failure = self._burst, self._burst.failure
        assert failure is not None
        for number in range(burst.answered):
            self._deliver(number)
        if 0 <= burst.failed_at < len(burst.pending):
            self._deliver(burst.failed_at, failure, phase)
        try:
            self.instance.road.border.cross(raising(failure), phase)
        except (SchemaError, PermissionDeniedError) as error:
            refused: PrefiqDbError = error
        if burst.failed_at == BEGIN:
            refused = self._explained(refused)
        raise refused

    def _results_lost(self, error: PrefiqDbError, why: str) -> ResultsLostError:
        failure = results_lost("batch", error, why, self.instance.name)
        failure.statement_index = error.statement_index
        return failure

    def _undo(self) -> None:
        """Roll back, unless the server has; return the connection."""
        self._end_state()
        self._roll_back()

    def _end_state(self) -> None:
        """Note that no transaction is open any more, if the server said so."""
        if self._burst.at_rest:
            self._state.transaction.end()
        self._state.statement.spent = 0.0


class _Handle:
    """SQLAlchemy's transaction, as the end of a block uses it; COMMIT was part of the message."""

    def __init__(self, rollback: Callable[[], None]) -> None:
        self.rollback = rollback


def raising(failure: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise failure

    return fail
