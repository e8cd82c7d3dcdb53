"""What the chaos tests found, a line for each fault, world and server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefiq_db.testing.faults import BankReport

_COUNTS = ("transfers", "attempts", "hits", "committed", "not committed", "unknown", "lost", "doubled", "seconds")


@dataclass(frozen=True, slots=True)
class Line:
    """One run.

    Attributes:
        hits: how often a fault hit: a message, a session, a server, a task.
        doubled: done twice, or told not committed and there: both let somebody pay twice.
        others: what else was wrong.
    """

    fault: str
    world: str
    server: str
    transfers: int
    attempts: int
    hits: int
    committed: int
    not_committed: int
    unknown: int
    lost: int
    doubled: int
    seconds: float
    others: int = 0

    @classmethod
    def of(cls, fault: str, world: str, server: str, report: BankReport, hits: int) -> Line:
        """Return the line of a bank's report."""
        return cls(
            fault,
            world,
            server,
            report.transfers,
            report.attempts,
            hits,
            report.committed,
            report.not_committed,
            report.unknown + report.cancelled,
            report.lost,
            report.doubled + report.phantom,
            report.seconds,
            report.wrong_answers + report.torn + report.negative + (report.sum_difference != 0),
        )

    @property
    def verdict(self) -> str:
        if self.lost or self.doubled or self.others:
            return "WRONG"
        return "right" if self.unknown else "exact"

    @property
    def cells(self) -> list[str]:
        counts = [self.transfers, self.attempts, self.hits, self.committed, self.not_committed, self.unknown]
        return [*map(str, counts), str(self.lost), str(self.doubled), f"{self.seconds:.1f}", self.verdict]


def table(lines: Iterable[Line]) -> str:
    """Return the lines as a table, to be printed."""
    rows = [["fault", "world", "server", *_COUNTS, "verdict"]]
    rows += [[line.fault, line.world, line.server, *line.cells] for line in lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
