"""Count what a database does: a lock and a few additions per statement, copied when somebody asks.

Everything is bounded: a service that makes up statements can't make this grow without end.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

from prefiq_db.errors import ErrorKind
from prefiq_db.hooks.histogram import FINE_BOUNDS, Histogram
from prefiq_db.hooks.summary import Description
from prefiq_db.origin import Line, readable
from prefiq_db.reports import HistogramStats, StatementStats

MOST_SUMMARIES: Final = 200
MOST_FINGERPRINTS: Final = 500
OTHER: Final = "other"


class StatementEntry:
    """The counters of one fingerprint."""

    __slots__ = ("calls", "errors", "fingerprint", "histogram", "line", "retries", "rows", "statement", "summary")

    def __init__(self, fingerprint: str, summary: str, statement: str) -> None:
        self.fingerprint = fingerprint
        self.summary = summary
        self.statement = statement
        self.calls = 0
        self.errors = 0
        self.retries = 0
        self.rows = 0
        self.histogram = Histogram(FINE_BOUNDS)
        self.line: Line | None = None

    def read(self) -> StatementStats:
        durations = self.histogram.read()
        origin = readable(self.line)
        return StatementStats(
            fingerprint=self.fingerprint,
            summary=self.summary,
            statement=self.statement,
            calls=self.calls,
            errors=self.errors,
            retries=self.retries,
            rows=self.rows,
            total_seconds=durations.total_seconds,
            mean_seconds=durations.mean_seconds,
            p95_seconds=durations.quantile_seconds(0.95),
            max_seconds=durations.max_seconds,
            origin=None if origin is None else str(origin),
        )


class StatementStatistics:
    """The counters of one database's statements."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.statement_count = 0
        self.error_count = 0
        self.slow_count = 0
        self.errors: Counter[ErrorKind] = Counter()
        self.retries: Counter[ErrorKind] = Counter()
        self._entries: dict[str, StatementEntry] = {}
        self._durations: dict[str, Histogram] = {}

    def entry(self, description: Description, statement: str) -> tuple[StatementEntry, Histogram]:
        """Return the counters for a statement; the last place of each kind is shared by all the rest."""
        with self.lock:
            entry = self._entries.get(description.fingerprint)
            if entry is None:
                entry = self._new_entry(description, statement)
            summary = description.summary or OTHER
            histogram = self._durations.get(summary)
            if histogram is None:
                name = summary if len(self._durations) < MOST_SUMMARIES else OTHER
                histogram = self._durations.setdefault(name, Histogram())
        return entry, histogram

    def _new_entry(self, description: Description, statement: str) -> StatementEntry:
        if len(self._entries) >= MOST_FINGERPRINTS:
            return self._entries.setdefault(OTHER, StatementEntry(OTHER, OTHER, ""))
        entry = StatementEntry(description.fingerprint, description.summary, statement)
        self._entries[description.fingerprint] = entry
        return entry

    def note_retry(self, kind: ErrorKind | None) -> None:
        with self.lock:
            self.retries[kind or ErrorKind.UNKNOWN] += 1

    # --- reading ---------------------------------------------------------------------------------

    def durations(self) -> dict[str, HistogramStats]:
        with self.lock:
            return {summary: histogram.read() for summary, histogram in self._durations.items()}

    def top(self, most: int = 50) -> tuple[StatementStats, ...]:
        """Return the statements that took most time in all, first the worst."""
        with self.lock:
            entries = [entry.read() for entry in self._entries.values()]
        entries.sort(key=lambda entry: entry.total_seconds, reverse=True)
        return tuple(entries[:most])
