"""Log slow statements, at WARNING, at most one of a kind in 10 seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from prefiq_db.events import Line
from prefiq_db.forks import renewed
from prefiq_db.origin import readable

logger = logging.getLogger("prefiq_db.slow")

# One record per fingerprint in this many seconds; the next one counts those held back.
QUIET_SECONDS: Final = 10.0
_MOST_FINGERPRINTS: Final = 1000


class SlowLog:
    """The slow log of one database."""

    def __init__(self, database: str, threshold_seconds: float, clock: Callable[[], float]) -> None:
        self.database = database
        self.threshold_seconds = threshold_seconds
        self._clock = clock
        self._lock = renewed(self, "_lock")
        self._last: dict[str, tuple[float, int]] = {}

    def note(
        self,
        *,
        statement: str,
        summary: str,
        fingerprint: str,
        duration_seconds: float,
        wait_seconds: float,
        rows: int,
        retries: int,
        transaction_id: int | None,
        line: Line | None,
        error_kind: str | None,
        tags: Mapping[str, str],
    ) -> None:
        """Log a statement that took longer than the threshold, unless its kind was logged just now."""
        held_back = self._admit(fingerprint)
        if held_back is None or not logger.isEnabledFor(logging.WARNING):
            return
        origin = readable(line)
        fields: dict[str, Any] = {
            "database": self.database,
            "summary": summary,
            "fingerprint": fingerprint,
            "duration_seconds": round(duration_seconds, 6),
            "wait_seconds": round(wait_seconds, 6),
            "rows": rows,
            "query_bytes": len(statement.encode()),
            "retries": retries,
            "transaction_id": transaction_id,
            "source": None if origin is None else str(origin),
            "error_kind": error_kind,
            "held_back": held_back,
        }
        if tags:
            fields["tags"] = ",".join(f"{name}={value}" for name, value in tags.items())
        logger.warning(
            "slow statement on database %s: %s took %.3f s (waited %.3f s, rows %s, retries %d%s) at %s: %s",
            self.database,
            summary or "statement",
            duration_seconds,
            wait_seconds,
            rows if rows >= 0 else "unknown",
            retries,
            f", {held_back} more since the last record" if held_back else "",
            origin,
            statement,
            extra=fields,
        )

    def _admit(self, fingerprint: str) -> int | None:
        """Return how many were held back since the last record, or ``None`` to hold back this one too."""
        now = self._clock()
        with self._lock:
            last, held = self._last.get(fingerprint, (None, 0))
            if last is not None and now - last < QUIET_SECONDS:
                self._last[fingerprint] = (last, held + 1)
                return None
            if len(self._last) >= _MOST_FINGERPRINTS:
                # Drop the entry logged longest ago: dicts keep their order, and an entry moves when it is logged.
                del self._last[next(iter(self._last))]
            self._last.pop(fingerprint, None)
            self._last[fingerprint] = (now, 0)
            return held
