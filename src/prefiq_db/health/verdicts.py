"""The answers of health checks. They have error kinds and codes only: never a host, a user, a message or a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.unrun import refuse_awaitable


class Status(StrEnum):
    """``pass``: well. ``warn``: it works, but look at it. ``fail``: it doesn't."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one check.

    Attributes:
        status: well or not.
        reason: why not, in words that may be shown to anybody; empty when well.
        kind: the error's kind, where there was an error.
    """

    status: Status = Status.PASS
    reason: str = ""
    kind: ErrorKind | None = None


WELL = Verdict()


def judge_error(error: BaseException) -> Verdict:
    """Return the verdict of an exception: its kind and code, or the type of one that isn't ours."""
    if not isinstance(error, PrefiqDbError):
        return Verdict(Status.FAIL, type(error).__name__, ErrorKind.UNKNOWN)
    code = "" if error.code is None else f" (code {error.code})"
    return Verdict(Status.FAIL, f"{error.kind.value}{code}", error.kind)


def judge_answer(answer: object) -> Verdict:
    """Return the verdict of a user's own check, which returns a :class:`Verdict` or whether all is well."""
    if isinstance(answer, Verdict):
        return answer
    refuse_awaitable(answer, "a health check")  # it would count as well
    return WELL if answer else Verdict(Status.FAIL, "not met")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and when.

    Attributes:
        name: the subject and the property that was checked: ``main:responseTime``, ``main:schema``.
        status: its meaning for the service: the failure of a subject that isn't critical is a ``warn``.
        reason: why not ``pass``; empty when well.
        kind: the error's kind, where there was an error.
        latency_seconds: how long the check took; ``None`` when it failed.
        found_at: the time of day.
    """

    name: str
    status: Status
    reason: str = ""
    kind: ErrorKind | None = None
    latency_seconds: float | None = None
    found_at: datetime = field(default_factory=partial(datetime.now, UTC))

    @property
    def subject(self) -> str:
        """The database's name, or the whole name of another check."""
        return self.name.removesuffix(":responseTime")


@dataclass(frozen=True, slots=True)
class Health:
    """What all checks together found: as bad as the worst finding. True unless something critical failed."""

    findings: tuple[Finding, ...] = ()

    @property
    def status(self) -> Status:
        found = {finding.status for finding in self.findings}
        return next((status for status in (Status.FAIL, Status.WARN) if status in found), Status.PASS)

    @property
    def reason(self) -> str:
        """Why it isn't ``pass``: each name with its reason."""
        return "; ".join(f"{each.subject}: {each.reason}" for each in self.findings if each.reason)

    def __bool__(self) -> bool:
        return self.status is not Status.FAIL
