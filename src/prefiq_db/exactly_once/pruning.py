"""Remove expired tokens, in a separate statement, never in a caller's transaction."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from prefiq_db.call import Call, Overrides
from prefiq_db.errors import PrefiqDbError
from prefiq_db.exactly_once.tokens import MARGIN_SECONDS, RETENTION_SECONDS
from prefiq_db.execution.shapes import OUTCOME
from prefiq_db.execution.standard import StandardRoad
from prefiq_db.forks import renewed

if TYPE_CHECKING:
    from prefiq_db.reports import ExecuteResult

logger = logging.getLogger("prefiq_db.exactly_once")

#: The shortest interval at which one process looks for old tokens.
INTERVAL_SECONDS: Final = 600.0
#: How many it removes at once: the statement stays short, however many there are.
LIMIT: Final = 1000
# The current caller pays for it, and may have a timeout of its own.
_SHORT: Final = Overrides(timeout=0.4)
# A process that lives shorter than the interval must prune too.
_CHANCE: Final = 1 / 500


class Pruner:
    """Prunes old tokens when it is time; if that fails, no caller notices."""

    def __init__(self, road: StandardRoad, database: str) -> None:
        self.road = road
        self.database = database
        self._lock = renewed(self, "_lock")
        self._due_at = time.monotonic() + random.uniform(0, INTERVAL_SECONDS)

    def prune_if_due(self) -> None:
        """Prune now and then; it costs the current caller one short statement."""
        now = time.monotonic()
        if now < self._due_at and random.random() > _CHANCE:
            return
        lock = self._lock
        if not lock.acquire(blocking=False):
            return
        try:
            # If there is more than one statement may remove, the next caller continues.
            if self.prune(LIMIT) < LIMIT:
                self._due_at = now + INTERVAL_SECONDS * random.uniform(0.9, 1.0)
        except PrefiqDbError as error:
            self._due_at = now + INTERVAL_SECONDS
            logger.info(
                "old commit tokens on database %s were not removed (%s); next time",
                self.database,
                error.kind.value,
                extra={"database": self.database, "error_kind": error.kind.value},
            )
        finally:
            lock.release()

    def prune(self, limit: int) -> int:
        """Remove at most *limit* old tokens; return how many were removed."""
        statement = text(self.road.dialect.prune_sql(RETENTION_SECONDS + MARGIN_SECONDS, limit))
        result: ExecuteResult = self.road.one_shot(Call("prune", statement, None, OUTCOME, _SHORT))
        return result.rowcount or 0
