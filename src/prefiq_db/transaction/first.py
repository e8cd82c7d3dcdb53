"""The first statement of a transaction, which BEGIN may travel with; on a dead connection both are sent again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from prefiq_db.call import Call
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.execution.pinned_shot import BrokenStatement
from prefiq_db.transaction.block import Block

T = TypeVar("T")

# Kinds of a lost connection where the server was slow, not dead: it may still run the statement.
_SLOW: Final = frozenset({ErrorKind.STATEMENT_TIMEOUT, ErrorKind.LOCK_TIMEOUT, ErrorKind.TRANSACTION_TIMEOUT})


def _died(error: PrefiqDbError) -> bool:
    """Return whether *error* is that of a connection that was dead, so that nothing in it was committed."""
    return error.classification.connection_lost and error.kind not in _SLOW


class FirstStatement(Block):
    """Mixed into the outermost block."""

    #: BEGIN waits for the first statement
    _begins = False

    def check_open(self) -> None:
        """Raise if the last statement was sent: nothing may follow it."""
        raise NotImplementedError

    def _explained(self, failure: PrefiqDbError) -> PrefiqDbError:
        """Return *failure*, which BEGIN raised, with a message that says what to do."""
        raise NotImplementedError

    def _begin_again(self) -> None:
        """Begin on another connection, where nothing was done yet."""
        raise NotImplementedError

    def send_next(self, call: Call) -> Any:
        scope = self.scope
        return self._first(lambda: Block._send(self, call, scope)) if self._begins else Block._send(self, call, scope)

    def end_broken(self, broken: BrokenStatement) -> Any:
        """Let go a statement that was broken off on the short way; where it may be sent again, return its result."""
        road = self.instance.road
        if not self._begins:
            return road.cross_pinned(broken)
        scope, call, left = self.scope, broken.call, [broken]
        del broken
        return self._first(lambda: road.cross_pinned(left.pop()) if left else Block._send(self, call, scope))

    def begin_now(self) -> None:
        self.check_open()
        if self._begins:
            self._first(lambda: self.instance.road.border.cross(self.scope.pinned.send_begin))

    def _first(self, action: Callable[[], T]) -> T:
        """Return what *action* returns, which sends BEGIN; on a dead connection begin again on another one."""
        self._begins = False
        started = time.monotonic()

        def attempt() -> T:
            transaction = self.scope.state.transaction
            try:
                return action()
            except PrefiqDbError as error:
                failure = self._explained(error) if transaction.begin_failed else error
                repeatable = transaction.travelled and transaction.may_repeat and not transaction.committing
                again.append(transaction.begin_failed or (repeatable and _died(error)))
            raise failure

        def once_more() -> T:
            self._begin_again()
            return attempt()

        again: list[bool] = []
        try:
            return attempt()
        except PrefiqDbError as error:
            if self.new_retrier is None or not again[-1]:
                raise
            retrier = self.new_retrier()
            first = error
        finally:
            # A statement that was refused before anything was sent leaves BEGIN to the next one.
            self._begins = self.scope.state.transaction.owes_begin
        return retrier.resume(once_more, first, started)
