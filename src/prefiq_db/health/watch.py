"""One subject of a health check: its result is cached, and it is never checked twice at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from prefiq_db.deadline import Deadline
from prefiq_db.errors import ErrorKind
from prefiq_db.forks import renewed
from prefiq_db.health.running_checks import RunningCheck
from prefiq_db.health.verdicts import Finding, Status, Verdict


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a check may run, and for how long.

    Attributes:
        deadline_seconds: how long a caller waits for a result, the wait for a connection included.
        cache_seconds: how long a result is cached.
        clock: measures the age of a result.
    """

    deadline_seconds: float = 1.0
    cache_seconds: float = 1.0
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a check.

    Attributes:
        name: as in findings.
        begin: starts a check that must end by a deadline.
        critical: the service can't do without it.
        changed: called with whether it is healthy, and the reason, if the result differs from the last one.
    """

    name: str
    begin: Callable[[Deadline], RunningCheck]
    critical: bool = True
    changed: Callable[[bool, str], None] | None = None


class Watch:
    """Keeps the last result for one subject, and the check that may be running."""

    def __init__(self, subject: Subject, pace: Pace) -> None:
        self._subject = subject
        self._pace = pace
        self._lock = renewed(self, "_lock")
        self._found: Finding | None = None
        self._good_until = 0.0
        self._running: RunningCheck | None = None
        self._settled: RunningCheck | None = None
        self._told = (True, "")  # a database counts as healthy until a check finds otherwise

    def begin(self) -> Finding | RunningCheck:
        """Return the last finding while it is cached, else the running check, else a new one."""
        with self._lock:
            if self._found is not None and self._pace.clock() < self._good_until:
                return self._found
            if self._running is None or self._running.is_over:
                self._running = self._subject.begin(Deadline.after(self._pace.deadline_seconds, "deadline_seconds"))
            return self._running

    def last_finding(self) -> Finding | None:
        """Return the last finding, however old; ``None`` before the first."""
        with self._lock:
            return self._found

    def end(self, running: RunningCheck, verdict: Verdict | None) -> Finding:
        """Return the finding of *running*; if its verdict is ``None``, it had no result in time, and is stopped."""
        with self._lock:
            if self._settled is running and self._found is not None:
                return self._found
            self._found = found = self._make_finding(verdict, time.monotonic() - running.started)
            self._good_until = self._pace.clock() + self._pace.cache_seconds
            self._settled = running
            answer = (verdict is not None and verdict.status is not Status.FAIL, found.reason)
            changed, self._told = answer != self._told, answer
        if verdict is None:
            running.give_up()
        if changed and self._subject.changed is not None:
            self._subject.changed(*answer)
        return found

    def _make_finding(self, verdict: Verdict | None, seconds: float) -> Finding:
        name = self._subject.name
        if verdict is None:
            late = f"no answer within {self._pace.deadline_seconds:g} s"
            verdict = Verdict(Status.FAIL, late, ErrorKind.STATEMENT_TIMEOUT)
        if verdict.status is Status.FAIL:
            status = Status.FAIL if self._subject.critical else Status.WARN
            return Finding(name, status, verdict.reason, verdict.kind)
        return Finding(name, verdict.status, verdict.reason, verdict.kind, seconds)
