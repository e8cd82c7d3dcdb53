"""The results of health checks. They contain only error kinds and codes: never a host, user, message or value."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.unrun import refuse_awaitable


class Status(StrEnum):
    """``pass``: healthy. ``warn``: it works, but needs attention. ``fail``: it doesn't work."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one check.

    Attributes:
        status: healthy or not.
        reason: why not, safe to show to anyone; empty when healthy.
        kind: the error's kind, if there was an error.
    """

    status: Status = Status.PASS
    reason: str = ""
    kind: ErrorKind | None = None


WELL = Verdict()


def judge_error(error: BaseException) -> Verdict:
    """Return the verdict for an exception: its kind and code, or the type of a foreign one."""
    if not isinstance(error, PrefiqDbError):
        return Verdict(Status.FAIL, type(error).__name__, ErrorKind.UNKNOWN)
    code = "" if error.code is None else f" (code {error.code})"
    return Verdict(Status.FAIL, f"{error.kind.value}{code}", error.kind)


def judge_answer(answer: object) -> Verdict:
    """Return the verdict for the result of a user's own check: a :class:`Verdict`, or whether all is well."""
    if isinstance(answer, Verdict):
        return answer
    refuse_awaitable(answer, "a health check")  # it would count as healthy
    return WELL if answer else Verdict(Status.FAIL, "not met")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, and its time.

    Attributes:
        name: the subject and the property that was checked: ``main:responseTime``, ``main:schema``.
        status: the status for the service: a failure of a non-critical subject is a ``warn``.
        reason: why it isn't ``pass``; empty when healthy.
        kind: the error's kind, if there was an error.
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
        """The database's name, or the full name of another check."""
        return self.name.removesuffix(":responseTime")


@dataclass(frozen=True, slots=True)
class Health:
    """The result of all checks: as bad as the worst finding. True unless something critical failed."""

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
