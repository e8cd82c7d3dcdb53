"""The result of a bank's check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_COLUMNS = ("transfers", "committed", "not_committed", "unknown", "cancelled", "attempts", "lost", "doubled", "phantom")


@dataclass(frozen=True, slots=True)
class BankReport:
    """The reported outcomes, and the state of the database.

    Attributes:
        transfers: how many were begun.
        committed, not_committed, unknown, cancelled: reported outcomes; the last: cancelled without an outcome.
        lost: reported as committed, but missing.
        doubled: present more than once.
        phantom: reported as not committed, but present.
        wrong_answers: returned the number of another transfer.
        torn: accounts whose balance doesn't match the ledger: half of a transfer happened.
        negative: accounts below zero.
        sum_difference: how much the sum of all accounts is too high.
        attempts: how often the body of a transfer began.
        seconds: how long the runs took.
        errors: the errors raised, by name and count.
    """

    transfers: int
    committed: int
    not_committed: int
    unknown: int
    cancelled: int
    lost: int
    doubled: int
    phantom: int
    wrong_answers: int
    torn: int
    negative: int
    sum_difference: int
    attempts: int
    seconds: float
    errors: tuple[tuple[str, int], ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether nothing is lost, doubled, half-done or unlike its report; unknown outcomes are allowed."""
        return not self._problems()

    @property
    def is_exact(self) -> bool:
        """Whether the report is right and no outcome is unknown."""
        return self.is_right and not self.unknown and not self.cancelled

    def _problems(self) -> list[str]:
        names = ("lost", "doubled", "phantom", "wrong_answers", "torn", "negative", "sum_difference")
        return [f"{value} {name.replace('_', ' ')}" for name in names if (value := getattr(self, name))]

    def __str__(self) -> str:
        told = f"{self.committed} committed, {self.not_committed} not, {self.unknown} unknown"
        cancelled = f", {self.cancelled} cancelled" if self.cancelled else ""
        problems = ", ".join(self._problems()) or "all right"
        return (
            f"{self.transfers} transfers: {told}{cancelled}; {problems}; {self.attempts} attempts, {self.seconds:.1f} s"
        )


def bank_table(reports: Mapping[str, BankReport]) -> str:
    """Return a table of reports for printing, one a line by its name."""
    width = max(map(len, reports), default=0)
    heads = [name.replace("_", " ") for name in _COLUMNS]
    lines = [" ".join([" " * width, *(f"{head:>13}" for head in heads), f"{'seconds':>9}", " verdict"])]
    for name, report in reports.items():
        cells = [f"{getattr(report, column):>13}" for column in _COLUMNS]
        verdict = "exact" if report.is_exact else "right" if report.is_right else "WRONG"
        lines.append(" ".join([f"{name:{width}}", *cells, f"{report.seconds:>9.1f}", f" {verdict}"]))
    return "\n".join(lines)
