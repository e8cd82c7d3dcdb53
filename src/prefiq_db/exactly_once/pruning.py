"""Remove tokens that nobody can ask for any more: by a statement of its own, never in anybody's transaction."""

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

#: How often one process looks for old tokens, at most.
INTERVAL_SECONDS: Final = 600.0
#: How many it removes at once: the statement stays short, whatever has piled up.
LIMIT: Final = 1000
# It is done at the cost of whoever comes just then, whose call may have a limit of its own.
_SHORT: Final = Overrides(timeout=0.4)
# A process that lives shorter than the interval must do its share, too.
_CHANCE: Final = 1 / 500


class Pruner:
    """Says when it is time, and sees that an error of pruning is nobody's problem."""

    def __init__(self, road: StandardRoad, database: str) -> None:
        self.road = road
        self.database = database
        self._lock = renewed(self, "_lock")
        self._due_at = time.monotonic() + random.uniform(0, INTERVAL_SECONDS)

    def prune_if_due(self) -> None:
        """Prune now and then: at the cost of one short statement of whoever comes just then."""
        now = time.monotonic()
        if now < self._due_at and random.random() > _CHANCE:
            return
        lock = self._lock
        if not lock.acquire(blocking=False):
            return
        try:
            # When there was more than one statement may remove, the next comer goes on.
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
        """Remove at most *limit* old tokens; return how many there were."""
        statement = text(self.road.dialect.prune_sql(RETENTION_SECONDS + MARGIN_SECONDS, limit))
        result: ExecuteResult = self.road.one_shot(Call("prune", statement, None, OUTCOME, _SHORT))
        return result.rowcount or 0
