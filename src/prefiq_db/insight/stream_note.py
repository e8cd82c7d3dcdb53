"""What is noted of a stream when it is opened, counted and told when it ends."""

from __future__ import annotations

from typing import Any

from prefiq_db.dialects.session import SessionState
from prefiq_db.errors import ErrorKind
from prefiq_db.events import StreamFinished
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.slow_log import SlowLog
from prefiq_db.insight.statistics import StatementStatistics
from prefiq_db.origin import application_line
from prefiq_db.tags import NO_TAGS


class StreamNote:
    """One stream's statement, as its observer knows it.

    Args:
        known: what the observer knows of the text.
        fields: what the event shares with those of its statement; ``None`` if nobody listens.
    """

    def __init__(
        self,
        hooks: Hooks,
        statistics: StatementStatistics,
        slow: SlowLog,
        known: Any,
        fields: dict[str, Any] | None,
        state: SessionState,
    ) -> None:
        self._hooks, self._statistics, self._slow = hooks, statistics, slow
        self._known = known
        self._fields = fields
        self._transaction_id = state.transaction.id
        self._retries = state.checkout.retry_number
        self._line = application_line()
        self._tags = NO_TAGS if state.statement.call is None else state.statement.call.tags

    def ended(self, *, slowest_seconds: float, kind: ErrorKind | None, rows: int, **figures: Any) -> None:
        """Count the rows, log a stream whose consumer had to wait too long for a batch, and tell the listeners."""
        statistics, known = self._statistics, self._known
        known.rows.append(rows)
        if kind is not None:
            with statistics.lock:
                statistics.error_count += 1
                statistics.errors[kind] += 1
                known.entry.errors += 1
        if slowest_seconds >= self._slow.threshold_seconds:
            with statistics.lock:
                statistics.slow_count += 1
            self._slow.note(
                statement=known.shown,
                summary=known.description.summary,
                fingerprint=known.description.fingerprint,
                duration_seconds=slowest_seconds,
                wait_seconds=0.0,
                rows=rows,
                retries=self._retries,
                transaction_id=self._transaction_id,
                line=self._line,
                error_kind=None if kind is None else kind.value,
                tags=self._tags,
            )
        if self._fields is not None:
            figures |= {"slowest_seconds": slowest_seconds, "kind": kind, "rows": rows}
            self._hooks.emit(StreamFinished(**self._fields, **figures))
