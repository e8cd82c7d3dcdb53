"""Limit the retries of one database, so that an outage doesn't cause a retry storm.

A token bucket, like those of gRPC's and AWS's clients. Each retry takes a token; each successful call adds two, and
time adds the rest. So there are never more attempts than three times the successes, plus what the bucket holds.
See docs/decisions/0070-why-retries-have-a-budget.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from prefiq_db.forks import renewed

logger = logging.getLogger("prefiq_db.retry")

#: Retries that one success pays for: with the first attempt, three attempts.
PER_SUCCESS: Final = 2.0
#: An empty bucket is full again after this long, even without a success.
REFILL_SECONDS: Final = 10.0
_BETWEEN_WARNINGS_SECONDS: Final = 10.0


class RetryBudget:
    """The retries of one database, for all its users in this process.

    Args:
        capacity: how many retries may be made in a row while nothing succeeds.
        now: the monotonic clock.

    Attributes:
        successes: successful calls. It is incremented without a lock: threads may lose one now and then, which only
            makes retries rarer.
        refused: retries that were not made because the budget was used up.
    """

    def __init__(self, database: str, capacity: int, now: Callable[[], float] = time.monotonic) -> None:
        self.database = database
        self.capacity = capacity
        self.successes = 0
        self.refused = 0
        self._tokens = float(capacity)
        self._counted = 0
        self._now = now
        self._looked_at = now()
        self._warned_at: float | None = None
        self._lock = renewed(self, "_lock")

    def spend(self) -> bool:
        """Return whether the budget allows one more retry, and take it from the budget if so."""
        with self._lock:
            now, successes = self._now(), self.successes
            earned = (successes - self._counted) * PER_SUCCESS
            earned += (now - self._looked_at) * self.capacity / REFILL_SECONDS
            self._tokens = min(float(self.capacity), self._tokens + earned)
            self._counted, self._looked_at = successes, now
            if self._tokens >= 1.0:
                self._tokens -= 1.0
                return True
            self.refused += 1
            silent = self._warned_at is not None and now - self._warned_at < _BETWEEN_WARNINGS_SECONDS
            if not silent:
                self._warned_at = now
        if not silent:
            logger.warning(
                "the retry budget of database %s is used up: errors are raised at once until calls succeed again",
                self.database,
                extra={"database": self.database, "retry_budget": self.capacity, "refused": self.refused},
            )
        return False

    @property
    def note(self) -> str:
        """The note for an error that was not retried because the budget was used up."""
        used_up = f"the retry budget of database {self.database} is used up (retry_budget={self.capacity})"
        return f"not tried again: {used_up}"
