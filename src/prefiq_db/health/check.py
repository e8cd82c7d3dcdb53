"""``HealthCheck`` and ``AsyncHealthCheck``: check one or many databases for many callers, within a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from prefiq_db.bridge import spawn
from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.deadline import Deadline
from prefiq_db.errors import UsageError
from prefiq_db.events import HealthChanged
from prefiq_db.health.document_probe import probe_documents
from prefiq_db.health.probe import Held, probe
from prefiq_db.health.running_checks import RunningCheck, TaskCheck, ThreadCheck
from prefiq_db.health.verdicts import Finding, Health, Verdict, judge_answer
from prefiq_db.health.watch import Pace, Subject, Watch
from prefiq_db.mongo import AsyncMongoDatabase, MongoDatabase
from prefiq_db.unrun import is_coroutine_function

AnyDatabase = Database | AsyncDatabase | MongoDatabase | AsyncMongoDatabase
Check = Callable[[], Any]


class _Checks:
    """What the sync and the async check share: the watched subjects, and how their findings are combined."""

    _has_loop = False

    def __init__(
        self,
        *databases: AnyDatabase,
        non_critical: Iterable[str] = (),
        read_only: Iterable[str] = (),
        checks: Mapping[str, Check] | None = None,
        deadline_seconds: float = 1.0,
        cache_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        asynchronous = [each.is_async for each in databases] + [*map(_is_async, (checks or {}).values())]
        if any(asynchronous) and not self._has_loop:
            raise UsageError("an asynchronous database or check needs an AsyncHealthCheck")
        if not deadline_seconds > 0 or not cache_seconds >= 0:
            raise UsageError("a health check needs deadline_seconds above 0, and cache_seconds of at least 0")
        self.databases = {database.name: database for database in databases}
        if len(self.databases) < len(databases):
            raise UsageError("two databases of a health check have the same name: Database(url, name=...)")
        spared, readable = set(non_critical), set(read_only)
        if unknown := (spared | readable) - self.databases.keys():
            raise UsageError(f"no database of this health check is called {', '.join(sorted(unknown))}")
        pace = Pace(deadline_seconds, cache_seconds, clock)
        self._watches = [
            Watch(
                Subject(
                    f"{name}:responseTime",
                    partial(_begin_probe, database, name not in readable),
                    name not in spared,
                    partial(_tell, database),
                ),
                pace,
            )
            for name, database in self.databases.items()
        ]
        self._further = [
            Watch(Subject(name, partial(_begin_check, name, check)), pace) for name, check in (checks or {}).items()
        ]

    def last_findings(self) -> tuple[Finding, ...]:
        """Return the last finding of each subject that was ever checked, however old, without checking anything."""
        found = (watch.last_finding() for watch in (*self._watches, *self._further))
        return tuple(finding for finding in found if finding is not None)

    def _order_rounds(self, *, ready: bool) -> list[list[Watch]]:
        # A further check may query a database that is being probed: run one after the other, they hold one connection.
        return [self._watches, self._further] if ready and self._further else [self._watches]


class HealthCheck(_Checks):
    """Check whether databases are healthy, for threads; call it as often as you like.

    Each database is probed with one statement, in a thread of its own, and never twice at once: concurrent callers wait
    for the same result, which is cached for *cache_seconds*. A check holds at most one connection.

    Args:
        databases: with different names.
        non_critical: names of databases that the service can do without: their failures only warn.
        read_only: names of databases that need not be writable.
        checks: further checks for readiness, by the finding's name (``"main:schema"``): functions that return a
            :class:`Verdict` or whether all is well; an exception is a failure.
        deadline_seconds: how long a caller waits for the databases, checkout included, and then once more for the
            further checks. Default 1.
        cache_seconds: how long a result is cached. Default 1.
        clock: measures the age of a result. Default ``time.monotonic``.

    Raises:
        UsageError: a database or a check is asynchronous, or a name is wrong.
    """

    def health(self) -> Health:
        """Return the health of the databases, within the deadline; never raises."""
        return self._ask(ready=False)

    def readiness(self) -> Health:
        """Return the health of the databases, and the results of the further checks; never raises."""
        return self._ask(ready=True)

    def _ask(self, *, ready: bool) -> Health:
        found: list[Finding] = []
        for watches in self._order_rounds(ready=ready):
            # Start all before waiting for the first: the deadline holds for all together, not for each in turn.
            begun = [watch.begin() for watch in watches]
            found += [self._collect(*each) for each in zip(watches, begun, strict=True)]
        return Health(tuple(found))

    def _collect(self, watch: Watch, begun: Finding | RunningCheck) -> Finding:
        if isinstance(begun, Finding):
            return begun
        return watch.end(begun, begun.wait())


class AsyncHealthCheck(_Checks):
    """Check whether sync and async databases are healthy, for tasks; see :class:`HealthCheck`.

    An asynchronous database is probed in a task, a synchronous one in a thread. Checks may be coroutine functions.
    """

    _has_loop = True

    async def health(self) -> Health:
        """Return the health of the databases, within the deadline; never raises."""
        return await self._ask(ready=False)

    async def readiness(self) -> Health:
        """Return the health of the databases, and the results of the further checks; never raises."""
        return await self._ask(ready=True)

    async def _ask(self, *, ready: bool) -> Health:
        found: list[Finding] = []
        for watches in self._order_rounds(ready=ready):
            begun = [watch.begin() for watch in watches]
            found += [await self._collect(*each) for each in zip(watches, begun, strict=True)]
        return Health(tuple(found))

    async def _collect(self, watch: Watch, begun: Finding | RunningCheck) -> Finding:
        if isinstance(begun, Finding):
            return begun
        return watch.end(begun, await begun.wait_async())


def _tell(database: AnyDatabase, healthy: bool, reason: str) -> None:
    database.hooks.emit(HealthChanged(database.name, healthy, reason))


def _begin_probe(database: AnyDatabase, writable: bool, deadline: Deadline) -> RunningCheck:
    def ask(held: Held) -> Verdict:
        if isinstance(database, (MongoDatabase, AsyncMongoDatabase)):
            return probe_documents(database._core, deadline, writable=writable)
        return probe(database._core, held, deadline.share(2), writable=writable)

    if database.is_async:
        return TaskCheck(database.name, lambda held: spawn(ask, held), deadline)
    return ThreadCheck(database.name, ask, deadline)


def _begin_check(name: str, check: Check, deadline: Deadline) -> RunningCheck:
    if _is_async(check):

        async def ask(held: Held) -> Verdict:
            return judge_answer(await check())

        return TaskCheck(name, ask, deadline)
    return ThreadCheck(name, lambda held: judge_answer(check()), deadline)


def _is_async(check: Check) -> bool:
    return is_coroutine_function(check)
