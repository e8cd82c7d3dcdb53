"""Count durations in buckets: a few hundred nanoseconds each, merged and read on demand."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final, TypeVar

from prefiq_db.reports import HistogramStats

# The buckets that OpenTelemetry's semantic conventions advise for db.client.operation.duration, in seconds.
OPERATION_BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
# Powers of two from a microsecond to a minute: fine enough to read a percentile from.
FINE_BOUNDS: Final = tuple(2.0**power / 1_000_000 for power in range(27))


T = TypeVar("T")


def drained(noted: list[T]) -> list[T]:
    """Remove and return what is in *noted* now; others may go on appending, but only one caller may drain at a time.

    Appending, copying a slice and deleting it are atomic, so nothing that others append meanwhile is lost.
    """
    taken = noted[:]
    del noted[: len(taken)]
    return taken


class Histogram:
    """Durations in seconds. Not locked: the owner must lock."""

    __slots__ = ("bounds", "counts", "max_seconds", "total_seconds")

    def __init__(self, bounds: tuple[float, ...] = OPERATION_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total_seconds = 0.0
        self.max_seconds = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total_seconds += seconds
        if seconds > self.max_seconds:
            self.max_seconds = seconds

    def add_all(self, noted: list[float]) -> None:
        """Count many durations at once: sorted, it takes one search per bucket instead of one per duration."""
        if not noted:
            return
        self.total_seconds += sum(noted)
        # Most waits and uses fall into the first bucket: then we skip the sort, which is most of the work.
        if noted[0] <= self.bounds[0] and (longest := max(noted)) <= self.bounds[0]:
            self.counts[0] += len(noted)
            self.max_seconds = max(self.max_seconds, longest)
            return
        ascending, below = sorted(noted), 0
        for index, bound in enumerate(self.bounds):
            reached = bisect_right(ascending, bound, below)
            self.counts[index] += reached - below
            below = reached
        self.counts[-1] += len(ascending) - below
        self.max_seconds = max(self.max_seconds, ascending[-1])

    def merge(self, other: Histogram) -> None:
        """Add the counts of *other*, which has the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total_seconds += other.total_seconds
        self.max_seconds = max(self.max_seconds, other.max_seconds)

    def read(self) -> HistogramStats:
        """Return an immutable copy."""
        return HistogramStats(self.bounds, tuple(self.counts), self.total_seconds, self.max_seconds)
