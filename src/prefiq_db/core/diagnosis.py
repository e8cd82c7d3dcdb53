"""Diagnosis: ping, health and statistics of one database."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from prefiq_db.core.batches import Batches
from prefiq_db.core.upserts import Upserts
from prefiq_db.core.view import Shared, View
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.execution.shapes import ONE_ROW, ONE_VALUE
from prefiq_db.insight.statement_budgets import StatementBudget
from prefiq_db.instance import Instance
from prefiq_db.pool.watcher import ConnectionWatcher
from prefiq_db.reports import DatabaseStats, HealthReport, PoolStats

_PING: Final = "SELECT 1"


class Diagnosis(Batches, Upserts):
    """A database with health checks and statistics."""

    def ping(self) -> float:
        """Return how many seconds one round trip takes, checkout included. One attempt; raises if there is no reply."""
        self.check_usable()
        started = time.perf_counter()
        self._ask("ping", _PING, ONE_VALUE)
        return time.perf_counter() - started

    def test_connection(self) -> bool:
        """Return whether the database answers; never raises."""
        try:
            self.ping()
        except PrefiqDbError:
            return False
        return True

    def health(self, timeout_seconds: float | None) -> HealthReport:
        """Report whether the database answers and is ready for work; if not, why. One attempt; never raises."""
        core = self if timeout_seconds is None else self.using({"timeout": timeout_seconds})
        details = {"engine": self.settings.engine, "mode": "async" if self.runtime.is_async else "sync"}
        if self.instance.origin.readers is not None:
            details["replicas"] = self.instance.origin.readers.states()
        try:
            core.check_usable()
            started = time.perf_counter()
            row = core._ask("health", self.road.dialect.health_sql, ONE_ROW)
            latency = time.perf_counter() - started
            ailment = core.ailment_of(row)
            state = core.road.dialect.read_state(row)
        except PrefiqDbError as error:
            return HealthReport(self.name, False, reason_of(error), error.kind, None, details)
        if state:
            details["state"] = state
        if ailment is not None:
            reason = f"{ailment.value}: {state}" if state else ailment.value
            return HealthReport(self.name, False, reason, ailment, latency, details)
        return HealthReport(self.name, True, latency_seconds=latency, details=details)

    def ailment_of(self, row: Any, *, writable: bool = True) -> ErrorKind | None:
        """Return why the server is not fit for work, judged by *row*, its reply to ``health_sql``; ``None`` if it is.

        A server that refuses writes is fit for read-only use: by the settings, by ``read_only``, or not *writable*.
        """
        ailment = self.road.dialect.ailment_of(row)
        writes = writable and not self.settings.read_only and not self.overrides().read_only
        return None if ailment is ErrorKind.READ_ONLY and not writes else ailment

    def stats(self) -> DatabaseStats:
        origin = self.instance.origin
        tenants = origin.tenants.items()
        stats = collect_stats(self, origin, origin.engine.pool, [each.watcher for _, each in tenants])
        readers = origin.readers
        return replace(
            stats,
            tenant_pools={name: self._pool_stats(each) for name, each in tenants},
            replicas=()
            if readers is None
            else tuple(each.stats(self._pool_stats(each.instance)) for each in readers.nodes),
            replica_fallback_count=0 if readers is None else readers.fallback_count,
        )

    def _pool_stats(self, instance: Instance) -> PoolStats:
        return instance.watcher.pool_stats(instance.engine.pool, self.settings.pool_size, self.settings.max_overflow)

    def expect(self, max_statements: int | None, max_repeats: int | None) -> StatementBudget:
        self.instance.observer.expect_budgets()
        return StatementBudget(self.instance.observer, max_statements=max_statements, max_repeats=max_repeats)


class Counted(Shared, Protocol):
    """The part of an instance that counts."""

    @property
    def watcher(self) -> ConnectionWatcher: ...


def collect_stats(
    database: View, instance: Counted, pool: Any, others: Sequence[ConnectionWatcher] = ()
) -> DatabaseStats:
    """Return the current state of *database*, of its *pool* and of the counters of *instance*.

    Args:
        others: who watches further pools, whose holders are told too.
    """
    statistics, watcher, settings = instance.observer.statistics, instance.watcher, database.settings
    return DatabaseStats(
        database=database.name,
        pool=watcher.pool_stats(pool, settings.pool_size, settings.max_overflow),
        statement_count=statistics.statement_count,
        error_count=statistics.error_count,
        retry_count=statistics.retries.total(),
        retry_refused_count=instance.retry_budget.refused,
        hook_error_count=database.hooks.error_count,
        leak_count=watcher.leak_count,
        slow_count=statistics.slow_count,
        unknown_outcome_count=statistics.unknown_outcome_count,
        errors=dict(statistics.errors),
        retries=dict(statistics.retries),
        durations=statistics.durations(),
        statements=statistics.top(),
        holders=tuple(
            sorted(itertools.chain(*(each.holders() for each in (watcher, *others))), key=lambda one: -one.age_seconds)
        ),
    )


def reason_of(error: PrefiqDbError) -> str:
    """Return why a database is unhealthy, without host, user or value."""
    code = "" if error.code is None else f" (code {error.code})"
    return f"{error.kind.value}{code}"
