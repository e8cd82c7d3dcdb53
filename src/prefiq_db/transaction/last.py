"""The last statement of a transaction, which COMMIT may travel with; and the end of a block that has committed so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefiq_db.call import Call
from prefiq_db.errors import (
    ClosedError,
    ErrorClass,
    ErrorKind,
    NestingError,
    OutcomeUnknownError,
    PrefiqDbError,
    ResultsLostError,
)
from prefiq_db.exactly_once import never_committed, still_unknown
from prefiq_db.reports import ExecuteResult, Outcome
from prefiq_db.transaction.block import RUN_AGAIN, Block


class LastStatement(Block):
    """Mixed into the outermost block."""

    #: why the outcome isn't ``committed``, if COMMIT travelled with the last statement; raised again at the block's end
    _failure: PrefiqDbError | None = None

    def _ask_for_outcome(self, token: str) -> Outcome:
        raise NotImplementedError

    def check_open(self) -> None:
        """Raise if the last statement was sent: nothing may follow it."""
        if self.scope.is_closed:
            raise ClosedError("the transaction's last statement was sent; open a new transaction for another one")

    def send_last(self, call: Call, send: Callable[[Call], Any]) -> Any:
        """Return the result of *call*; COMMIT travels with it where that is safe, else the block's end sends it."""
        self.check_open()
        scope, road = self.scope, self.instance.road
        view = scope.pinned.view
        if view is not None and view.in_nested_transaction():
            raise NestingError("last: a session is open in this transaction; leave it before the last statement")
        if not road.dialect.commit_travels:
            fetched = send(call)
            scope.is_closed = True
            return fetched
        try:
            return self.instance.runtime.shielded(lambda: self._send_last(call, send), self._last_seconds(call))
        except TimeoutError:
            self._failure = failure = OutcomeUnknownError(
                f"COMMIT on database {self.instance.name} was not answered in time: it may have happened",
                database=self.instance.name,
                token=self.token,
            )
        except BaseException as interruption:
            if not isinstance(interruption, PrefiqDbError):
                interruption.transaction_outcome = self.outcome  # type: ignore[attr-defined]
            raise
        raise failure

    def _last_seconds(self, call: Call) -> float:
        seconds, _ = self._limits(call)
        return seconds + self.instance.commit_budget_seconds

    def _send_last(self, call: Call, send: Callable[[Call], Any]) -> Any:
        scope = self.scope
        transaction = scope.state.transaction
        transaction.wants_commit = True
        # Unknown until the reply is read, should an interruption come between.
        self.outcome = Outcome.UNKNOWN
        failure: ResultsLostError | None = None
        try:
            fetched = send(call)
        except OutcomeUnknownError as error:
            if not transaction.committing:
                self.outcome = Outcome.ACTIVE
                raise
            lost = error
        except BaseException as error:
            # An error may come after COMMIT has succeeded: from reading the rows, or an interruption.
            if transaction.committed:
                self.outcome = Outcome.COMMITTED
            elif isinstance(error, PrefiqDbError) or not transaction.committing:
                self.outcome = Outcome.ACTIVE
            scope.is_closed = self.outcome is not Outcome.ACTIVE
            if self.outcome is not Outcome.COMMITTED or not isinstance(error, PrefiqDbError):
                raise
            failure = results_lost("transaction", error, "a result can't be read", self.instance.name)
        else:
            scope.is_closed = True
            committed = scope.state.transaction.committed
            self.outcome = Outcome.COMMITTED if committed else Outcome.ACTIVE
            return fetched
        finally:
            transaction.wants_commit = False
        if failure is not None:
            raise failure
        return self._settle_lost(lost)

    def _settle_lost(self, lost: OutcomeUnknownError) -> ExecuteResult:
        """Find out the outcome of the COMMIT that travelled, or raise; what the statement returned is lost."""
        self.scope.is_closed = True
        self.scope.doubt()
        outcome = Outcome.UNKNOWN if self.token is None else self._ask_for_outcome(self.token)
        self.outcome = outcome
        if outcome is Outcome.COMMITTED:
            return ExecuteResult(None)
        self._failure = lost
        if outcome is Outcome.NOT_COMMITTED:
            self._failure = never_committed(self.instance.name, RUN_AGAIN)
        elif self.token is not None:
            self._failure = still_unknown(lost, self.token, self.instance.name)
        raise self._failure

    def settled_end(self) -> None:
        """Run what follows the end of a transaction whose COMMIT travelled with its last statement."""
        scope = self.scope
        if self.outcome is Outcome.COMMITTED and not scope.pinned.is_gone:
            self.instance.road.border.cross(scope.pinned.close)
        scope.blocks.clear()
        if self.outcome is Outcome.COMMITTED:
            self._call(self.commit_functions, "on_commit")
        elif self.outcome is Outcome.NOT_COMMITTED:
            self._call(self.rollback_functions, "on_rollback")


def results_lost(what: str, error: PrefiqDbError, why: str, database: str) -> ResultsLostError:
    """Return the error for *what*, which is committed although its results can't be had: *error* says why not."""
    return ResultsLostError(
        f"the {what} on database {database} is committed, but {why}: don't run it again; read what it wrote from the "
        "database",
        code=error.code,
        database=database,
        classification=ErrorClass(ErrorKind.CONNECTION_LOST, connection_lost=True),
        original=error.original,
    )
