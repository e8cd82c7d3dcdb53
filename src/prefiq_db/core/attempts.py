"""The retry loop that the caller writes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, TypeVar

from prefiq_db.config import RetryPolicy
from prefiq_db.core.sessions import judge_session_error
from prefiq_db.core.transactions import Transactions, transaction_repeatable
from prefiq_db.deadline import Deadline, own_deadline, sooner
from prefiq_db.errors import PrefiqDbError, UsageError
from prefiq_db.retry import affordable, attempt_failed, drawn_wait, note_attempt
from prefiq_db.transaction import Block, TransactionOptions

logger = logging.getLogger("prefiq_db.transaction")

T = TypeVar("T")
D = TypeVar("D", bound=Transactions)


def begin_attempts(core: D, options: TransactionOptions, retry: RetryPolicy | None) -> Attempts[D]:
    """Return attempts at a transaction of *core*; none has begun.

    Raises:
        UsageError: if called inside a transaction.
    """
    core.check_usable()
    if core.ambient() is not None:
        raise UsageError(
            "attempts() inside a transaction: an inner block can't run again by itself; put the loop around the "
            "outermost transaction"
        )
    core = core.for_attempts(options)
    given = core.overrides()
    deadline = sooner(own_deadline(given.timeout), own_deadline(options.timeout_seconds))
    schema = core.schema_of(given)  # as of now, wherever the loop goes on
    if schema != options.schema:
        options = replace(options, schema=schema)
    return Attempts(core, options, core.policy(given, retry), deadline)


class Attempts(Generic[D]):
    """``for attempt in db.attempts(): with attempt as tx:``: the loop ends with success or with the last error."""

    def __init__(
        self, core: D, options: TransactionOptions, policy: RetryPolicy, deadline: Deadline | None = None
    ) -> None:
        self.core = core
        self.options = options
        self.policy = policy
        self.number = 0
        self.wait_seconds = 0.0
        self.done = False
        self.last: AttemptCore[D] | None = None
        self._owed = False
        self.deadline = deadline
        self._started = time.monotonic()

    def next(self) -> AttemptCore[D] | None:
        """Return the next attempt, or ``None`` when the loop is over."""
        if self.done:
            return None
        if self.last is not None and self.last.tx is None:
            raise UsageError("attempts(): an attempt is a block: `for attempt in db.attempts(): with attempt as tx:`")
        self.number += 1
        self._owed = False
        self.last = AttemptCore(self)
        return self.last

    def failed(self, error: BaseException) -> bool:
        """Return whether another attempt follows after *error*."""
        repeatable = transaction_repeatable(error, self.options)
        elapsed = time.monotonic() - self._started
        wait = drawn_wait(self.number, elapsed, self.policy) if repeatable else None
        if wait is not None and self.deadline is not None and wait >= self.deadline.left():
            wait = None
        if wait is None or not affordable(self.core.instance.retry_budget, error):
            self.done = True
            return False
        event = attempt_failed(error, self.number, wait)
        note_attempt(self.core.name, event)
        self.core.note_retry(event)
        self.wait_seconds = wait
        self._owed = True
        return True

    def left(self) -> None:
        """Log an error if the caller left the loop after a failed attempt, when another one was due.

        ``__exit__`` can't stop a ``return`` or ``break`` inside the block, whatever it returns.
        """
        if self._owed:
            logger.error(
                "attempts() on database %s was left by return or break after attempt %d had failed, before the next: "
                "nothing was committed; leave the loop after it, or use run_in_transaction",
                self.core.name,
                self.number,
                extra={"database": self.core.name, "attempt": self.number},
            )


class AttemptCore(Generic[D]):
    """One attempt: a transaction, preceded by a wait if an earlier attempt failed."""

    def __init__(self, loop: Attempts[D]) -> None:
        self.loop = loop
        self.number = loop.number
        self.tx: Block | None = None

    def enter(self, shell: Callable[[Block], T]) -> T:
        """Wait if an earlier attempt failed, then begin; return ``shell(transaction)``."""
        if self.loop.wait_seconds:
            self.loop.core.runtime.sleep(self.loop.wait_seconds)
            self.loop.wait_seconds = 0.0
        core = self.loop.core
        try:
            self.tx = core.new_root(core.with_overrides(self.loop.options), self.loop.deadline)
            self.tx.retry_number = self.number - 1
            core.begin(self.tx)
            return shell(self.tx)
        except BaseException:
            self.abandon()
            raise

    def exit(self, error: BaseException | None) -> bool:
        """End the transaction; return whether to suppress *error* because another attempt follows."""
        try:
            return self._end(error)
        finally:
            self.abandon()

    def _end(self, error: BaseException | None) -> bool:
        assert self.tx is not None
        failed = None if error is None else judge_session_error(self.tx, error)
        try:
            self.tx.end(error)
        except PrefiqDbError as failure:
            if self.loop.failed(failure):
                return True
            raise
        if error is None:
            self.loop.done = True
            self.loop.core.instance.retry_budget.successes += 1
            return False
        if self.tx.is_settled:
            # COMMIT travelled with a statement, and the error came after it.
            self.loop.done = True
            return False
        if failed is None:
            return self.loop.failed(error)
        if self.loop.failed(failed):
            return True
        raise failed from None

    @property
    def is_over(self) -> bool:
        return self.tx is None or self.tx.is_over

    def abandon(self) -> None:
        """Clean up a transaction whose end was interrupted."""
        if self.tx is not None:
            self.tx.abandon()
