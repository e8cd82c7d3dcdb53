"""Claim a token until there is an answer, or the time is up."""

from __future__ import annotations

import logging
import random
import time
from typing import Final

from prefiq_db.config import RetryPolicy
from prefiq_db.deadline import Deadline
from prefiq_db.errors import LockTimeoutError, PrefiqDbError, SchemaError, StatementTimeoutError
from prefiq_db.events import OutcomeResolved
from prefiq_db.exactly_once.claims import Claimer
from prefiq_db.exactly_once.tokens import is_kept, may_be_of
from prefiq_db.exactly_once.words import missing_table
from prefiq_db.hooks.registry import Hooks
from prefiq_db.reports import Outcome
from prefiq_db.retry import backoff_bound_seconds

logger = logging.getLogger("prefiq_db.exactly_once")

# How long the first claim waits for a transaction that is still open: a COMMIT under way should be able to finish.
_PATIENCE_SECONDS: Final = 1.0
_SHORTEST_WAIT_SECONDS: Final = 0.05
_BACKOFF: Final = RetryPolicy(wait_initial_seconds=0.05, wait_max_seconds=1.0)
_WORDS: Final = {"work": Outcome.COMMITTED, "abandoned": Outcome.NOT_COMMITTED}
# A row that should exist is gone: the table was emptied, and the outcome can't be known.
_VANISHED_LIMIT: Final = 3


class Resolver:
    """Finds out the outcome of transactions by their tokens.

    Args:
        budget_seconds: how long it keeps asking a server that doesn't reply.
        home: the name of the database on its server, which its tokens are marked with.
    """

    def __init__(self, claimer: Claimer, hooks: Hooks, database: str, budget_seconds: float, home: str) -> None:
        self.claimer = claimer
        self.hooks = hooks
        self.database = database
        self.budget_seconds = budget_seconds
        self.home = home

    def resolve(self, token: str, deadline: Deadline | None = None, *, transaction_id: int | None = None) -> Outcome:
        """Return ``COMMITTED`` or ``NOT_COMMITTED``, for good, or ``UNKNOWN`` when the time is up.

        The call settles the outcome: a transaction that is still open gets a moment to end. Then its server session is
        ended, if it provably holds the token, and the transaction can no longer be committed.

        Raises:
            SchemaError: if the token table is missing.
        """
        started = time.monotonic()
        budget = Deadline.after(self.budget_seconds, "retry.total_seconds")
        attempt = _Resolution(self, token, budget.sooner_of(deadline))
        outcome = attempt.run()
        self._tell(outcome, attempt, time.monotonic() - started, transaction_id)
        return outcome

    def _tell(self, outcome: Outcome, attempt: _Resolution, seconds: float, transaction_id: int | None) -> None:
        level = logging.ERROR if outcome is Outcome.UNKNOWN else logging.WARNING
        logger.log(
            level,
            "a transaction on database %s had no answer to COMMIT; asked %d times in %.3f s: %s%s",
            self.database,
            attempt.claims,
            seconds,
            outcome.value,
            f" ({attempt.reason})" if outcome is Outcome.UNKNOWN else "",
            extra={
                "database": self.database,
                "transaction_id": transaction_id,
                "outcome": outcome.value,
                "claims": attempt.claims,
                "duration_seconds": seconds,
            },
        )
        if self.hooks.wants(OutcomeResolved):
            event = OutcomeResolved(self.database, transaction_id, outcome.value, attempt.claims, seconds)
            self.hooks.emit(event)


class _Resolution:
    """The resolution of one token."""

    def __init__(self, resolver: Resolver, token: str, deadline: Deadline) -> None:
        self.resolver = resolver
        self.claimer = resolver.claimer
        self.token = token
        self.deadline = deadline
        self.claims = 0
        self.reason = "no time left"
        self._vanished = 0
        self._blocked = 0

    def run(self) -> Outcome:
        if not is_kept(self.token, time.time()):
            self.reason = "the token is too old"
            return Outcome.UNKNOWN
        while (left := self.deadline.left()) > 0:
            self.claims += 1
            try:
                word = self._claim(left)
            except (LockTimeoutError, StatementTimeoutError) as error:
                self._blocked += 1
                self.reason = error.kind.value
                continue
            except SchemaError as error:
                failure = error
                break
            except PrefiqDbError as error:
                self.reason = error.kind.value
                if not self._may_pass(error):
                    return Outcome.UNKNOWN
            else:
                if word is not None and (word == "work" or may_be_of(self.token, self.resolver.home)):
                    return _WORDS[word]
                if word is not None:
                    self.reason = "the token is not known here, and was made for another database"
                    return Outcome.UNKNOWN
                self.reason = "the token's row was removed"
                self._vanished += 1
                if self._vanished == _VANISHED_LIMIT:
                    return Outcome.UNKNOWN
            self._pause()
        else:
            return Outcome.UNKNOWN
        raise missing_table(failure, self.resolver.database)

    def _claim(self, left: float) -> str | None:
        wait = max(_SHORTEST_WAIT_SECONDS, min(_PATIENCE_SECONDS, left / 2))
        claim = self.claimer.claim_from if self._blocked else self.claimer.claim
        return claim(self.token, wait, self.deadline)

    def _may_pass(self, error: PrefiqDbError) -> bool:
        found = error.classification
        return found.transient or found.connection_lost or found.retry_transaction

    def _pause(self) -> None:
        bound = min(backoff_bound_seconds(self.claims, _BACKOFF), self.deadline.left())
        if bound > 0:
            self.claimer.runtime.sleep(random.uniform(0, bound))
