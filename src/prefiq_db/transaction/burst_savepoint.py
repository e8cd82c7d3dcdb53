"""A savepoint that travels in one message with the statements in it and its release."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NoReturn

from prefiq_db.call import Batch
from prefiq_db.dialects.burst_control import BEGIN, Burst, CannotTravelError, Pending
from prefiq_db.dialects.session import ENDED, GONE, HALF, SessionState
from prefiq_db.errors import PrefiqDbError
from prefiq_db.execution.batch_items import name_statement
from prefiq_db.execution.bursts import deliver, gather
from prefiq_db.transaction.burst_block import raising
from prefiq_db.transaction.savepoint import Savepoint


class BurstSavepoint(Savepoint):
    """A savepoint around statements that are known beforehand; SQLAlchemy knows nothing of it."""

    _burst: Burst
    _state: SessionState

    def run_batch(self, batch: Batch) -> list[Any]:
        """Set the savepoint, run all statements and release it; return their results.

        Raises:
            CannotTravelError: its statements have to be sent one by one; nothing was done.
        """
        scope, road = self.scope, self.instance.road
        if not road.dialect.has_bursts:
            raise CannotTravelError
        fits = True
        with scope.used():
            if scope.pinned.is_lost:
                raise self._lost()
            scope.blocks[0].begin_now()
            self._state = scope.state
            self._state.transaction.only_reads = False
            try:
                pending = gather(scope.connection, self._state, batch.items)
            except CannotTravelError:
                fits = False
            else:
                fits = self._send_batch(batch, pending)
            if fits:
                return self._settle()
        raise CannotTravelError

    def _send_batch(self, batch: Batch, pending: Sequence[Pending]) -> bool:
        """Send the message; return whether the server could read it."""
        scope, road, state = self.scope, self.instance.road, self._state
        connection = scope.connection
        proxied = connection._dbapi_connection
        seconds, deadline = self._limits(batch)
        name = f"prefiq_batch_{self.id}"
        burst = self._burst = Burst([f"SAVEPOINT {name}"], pending, name)

        def send() -> None:
            road.dialect._check_still_open(state.transaction, proxied)
            road.dialect.bound_statements(connection, seconds, deadline)
            state.statement.call, state.statement.sent_at = batch, time.perf_counter()
            state.statement.summary = f"batch of {len(pending)}"
            try:
                road.dialect.send_burst(proxied, burst)
            finally:
                took, state.statement.sent_at = time.perf_counter() - state.statement.sent_at, 0.0
            told = min(burst.answered + (burst.failure is not None), len(pending))
            state.statement.spent = took / max(1, told)

        road.border.cross(send)
        return not burst.unread

    def _settle(self) -> list[Any]:
        burst, road, state = self._burst, self.instance.road, self._state
        try:
            if burst.failure is not None:
                self._fail(burst.failure)
            try:
                results = [self._deliver(number) for number in range(len(burst.pending))]
            except PrefiqDbError as error:
                # What it did can't be taken back alone any more.
                state.transaction.aborted, state.transaction.cause = HALF, error.classification
                raise
            proxied = self.scope.connection._dbapi_connection
            road.border.cross(lambda: road.dialect._note_ending(state.transaction, proxied))
            return results
        finally:
            state.statement.spent = 0.0

    def _deliver(self, number: int, failure: Exception | None = None) -> Any:
        connection, pending = self.scope.connection, self._burst.pending[number]
        try:
            return self.instance.road.border.cross(lambda: deliver(connection, self._state, pending, failure))
        except PrefiqDbError as error:
            if failure is None or self._burst.said:
                name_statement(error, number)
            raise

    def _fail(self, failure: Exception) -> NoReturn:
        burst, dialect, transaction = self._burst, self.instance.road.dialect, self._state.transaction
        proxied = self.scope.connection._dbapi_connection
        if burst.said:
            dialect._note_failure(failure, transaction, proxied, burst.pending[0].context)
        try:
            for number in range(burst.answered):
                self._deliver(number)
            if burst.failed_at != BEGIN and burst.failed_at < len(burst.pending):
                self._deliver(burst.failed_at, failure)
            self.instance.road.border.cross(raising(failure))
        finally:
            self._roll_back_to_it()
        raise AssertionError("border.cross() has raised it")

    def _roll_back_to_it(self) -> None:
        """Roll back to the savepoint, unless the server has, or the connection is lost."""
        burst, connection, transaction = self._burst, self.scope.connection, self._state.transaction
        if connection.invalidated or transaction.aborted in (GONE, ENDED):
            return
        if burst.at_rest:
            transaction.aborted = None
            return
        dialect, name = self.instance.road.dialect, burst.savepoint
        self.instance.road.border.cross(lambda: dialect.do_rollback_to_savepoint(connection, name))
