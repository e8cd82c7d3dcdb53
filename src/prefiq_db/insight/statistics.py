"""Count what a database does: a note per statement, counted many at once, copied on demand.

Everything is bounded, so a service that generates statements can't make it grow without end.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from prefiq_db.errors import ErrorKind
from prefiq_db.events import Line
from prefiq_db.forks import renewed
from prefiq_db.insight.histogram import FINE_BOUNDS, Histogram, drained
from prefiq_db.insight.summary import Description
from prefiq_db.origin import readable
from prefiq_db.reports import HistogramStats, StatementStats

MOST_SUMMARIES: Final = 200
MOST_FINGERPRINTS: Final = 500
FOLD_AT: Final = 512
OTHER: Final = "other"


class StatementEntry:
    """The counters of one fingerprint.

    Events are noted in lists, which takes no lock and hardly any time, and counted now and then, many at once.
    """

    __slots__ = (
        "__weakref__",
        "_coarse",
        "_fine",
        "_lock",
        "_rows",
        "durations",
        "errors",
        "fingerprint",
        "line",
        "retries",
        "rows",
        "statement",
        "summary",
    )

    def __init__(self, fingerprint: str, summary: str, statement: str) -> None:
        self.fingerprint = fingerprint
        self.summary = summary
        self.statement = statement
        self.line: Line | None = None
        self.errors = 0
        self.retries = 0
        #: not counted yet
        self.durations: list[float] = []
        self.rows: list[int] = []
        self._rows = 0
        self._fine, self._coarse = Histogram(FINE_BOUNDS), Histogram()
        self._lock = renewed(self, "_lock")

    def fold(self) -> None:
        """Count what was noted."""
        with self._lock:
            durations = drained(self.durations)
            durations.sort()  # once for both: sorting what is sorted costs next to nothing
            self._fine.add_all(durations)
            self._coarse.add_all(durations)
            self._rows += sum(drained(self.rows))

    @property
    def calls(self) -> int:
        return sum(self._coarse.counts)

    def coarse(self) -> Histogram:
        return self._coarse

    def read(self) -> StatementStats:
        durations = self._fine.read()
        origin = readable(self.line)
        return StatementStats(
            fingerprint=self.fingerprint,
            summary=self.summary,
            statement=self.statement,
            calls=durations.count,
            errors=self.errors,
            retries=self.retries,
            rows=self._rows,
            total_seconds=durations.total_seconds,
            mean_seconds=durations.mean_seconds,
            p95_seconds=durations.quantile_seconds(0.95),
            max_seconds=durations.max_seconds,
            origin=None if origin is None else str(origin),
        )


class StatementStatistics:
    """The counters of one database's statements."""

    def __init__(self) -> None:
        self.lock = renewed(self, "lock")
        self.error_count = 0
        self.slow_count = 0
        self.unknown_outcome_count = 0
        self.errors: Counter[ErrorKind] = Counter()
        self.retries: Counter[ErrorKind] = Counter()
        self._entries: dict[str, StatementEntry] = {}

    def entry(self, description: Description, statement: str) -> StatementEntry:
        """Return the counters for a statement; once all places are taken, the rest share the last one."""
        with self.lock:
            entry = self._entries.get(description.fingerprint)
            if entry is None and len(self._entries) >= MOST_FINGERPRINTS:
                entry = self._entries.get(OTHER)
                description = _THE_REST
            if entry is None:
                entry = StatementEntry(description.fingerprint, description.summary, statement)
                self._entries[description.fingerprint] = entry
        return entry

    def _fold_entries(self) -> list[StatementEntry]:
        with self.lock:
            entries = list(self._entries.values())
        for entry in entries:
            entry.fold()
        return entries

    @property
    def statement_count(self) -> int:
        return sum(entry.calls for entry in self._fold_entries())

    def note_retry(self, kind: ErrorKind | None) -> None:
        with self.lock:
            self.retries[kind or ErrorKind.UNKNOWN] += 1

    def note_unknown_outcome(self) -> None:
        with self.lock:
            self.unknown_outcome_count += 1

    # --- reading ---------------------------------------------------------------------------------

    def durations(self) -> dict[str, HistogramStats]:
        """Return the durations by summary: the most frequent ones, and all others together."""
        merged: dict[str, Histogram] = {}
        for entry in sorted(self._fold_entries(), key=lambda entry: entry.calls, reverse=True):
            summary = entry.summary or OTHER
            if summary not in merged and len(merged) >= MOST_SUMMARIES:
                summary = OTHER
            merged.setdefault(summary, Histogram()).merge(entry.coarse())
        return {summary: histogram.read() for summary, histogram in merged.items()}

    def top(self, most: int = 50) -> tuple[StatementStats, ...]:
        """Return the statements with the highest total time, the highest first."""
        entries = [entry.read() for entry in self._fold_entries()]
        entries.sort(key=lambda entry: entry.total_seconds, reverse=True)
        return tuple(entries[:most])


_THE_REST: Final = Description(OTHER, "", (), OTHER)
