"""Metrics for Prometheus, named by OpenTelemetry's mapping; extra ``prometheus``.

    from prefiq_db.integrations import prometheus
    prometheus.export(db)

The metrics are read from ``db.stats()`` at scrape time, so they cost a statement nothing. Therefore multiprocess mode
(``PROMETHEUS_MULTIPROC_DIR``) is not supported: there prometheus_client reads files that the worker processes write,
and never calls a collector. Scrape each worker separately, or export through OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from prefiq_db.errors import UnsupportedError
from prefiq_db.forks import renewed
from prefiq_db.health import AsyncHealthCheck, Finding, HealthCheck, Status
from prefiq_db.integrations.conventions import (
    COUNT,
    CREATE_TIME,
    DURATION,
    ERROR_COUNT,
    ERROR_KIND,
    FALLBACK_COUNT,
    HEALTH,
    HEALTH_CHECK,
    HEALTH_STATUS,
    IDLE_MAX,
    IDLE_MIN,
    LEAK_COUNT,
    MAX,
    NAMESPACE,
    PENDING,
    POOL_NAME,
    REFUSED_COUNT,
    REPLICA_IN_ROTATION,
    REPLICA_LAG,
    RETRY_COUNT,
    ROLE,
    SERVER_ADDRESS,
    SERVER_PORT,
    SLOW_COUNT,
    STATE,
    SUMMARY,
    SYSTEM,
    TIMEOUTS,
    UNKNOWN_COUNT,
    USE_TIME,
    WAIT_TIME,
    Metric,
    Value,
    identity,
    label_name,
    labels,
    pool_of,
    prometheus_name,
)
from prefiq_db.integrations.extras import missing_extra
from prefiq_db.reports import DatabaseStats, HistogramStats, PoolStats

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString
    from prometheus_client.values import ValueClass
except ModuleNotFoundError:
    raise missing_extra(__name__, "prometheus-client", "prometheus") from None

if TYPE_CHECKING:
    from prefiq_db.integrations.sources import AnyDatabase

Reading = HistogramStats | float
Attributes = Mapping[str, Value]

_OF_DATABASE: Final = (SYSTEM, NAMESPACE, SERVER_ADDRESS, SERVER_PORT, SUMMARY)
_OF_POOL: Final = (POOL_NAME,)
_BY_KIND: Final = (POOL_NAME, ERROR_KIND)
# Every metric family, with its labels.
_FAMILIES: Final[Mapping[Metric, tuple[str, ...]]] = {
    DURATION: _OF_DATABASE,
    COUNT: (POOL_NAME, STATE),
    IDLE_MAX: _OF_POOL,
    IDLE_MIN: _OF_POOL,
    MAX: _OF_POOL,
    PENDING: _OF_POOL,
    TIMEOUTS: _OF_POOL,
    CREATE_TIME: _OF_POOL,
    WAIT_TIME: _OF_POOL,
    USE_TIME: _OF_POOL,
    RETRY_COUNT: _BY_KIND,
    ERROR_COUNT: _BY_KIND,
    LEAK_COUNT: _OF_POOL,
    REFUSED_COUNT: _OF_POOL,
    UNKNOWN_COUNT: _OF_POOL,
    SLOW_COUNT: _OF_POOL,
    FALLBACK_COUNT: _OF_POOL,
    REPLICA_IN_ROTATION: (POOL_NAME, ROLE),
    REPLICA_LAG: _OF_POOL,
    HEALTH: (HEALTH_CHECK, HEALTH_STATUS),
}
# An older result of a health check is not shown: nobody asks any more, and it may be wrong by now.
_STALE_SECONDS: Final = 300.0


def export(
    *databases: AnyDatabase,
    registry: CollectorRegistry = REGISTRY,
    health: HealthCheck | AsyncHealthCheck | None = None,
) -> DatabaseCollector:
    """Register one collector for *databases*; remove it with ``registry.unregister``.

    Args:
        registry: default: prometheus_client's global one.
        health: a health check whose last results are exported, too: ``HealthApp(...).check``, say. A scrape checks
            nothing, so something has to ask for health and readiness: the probes of Kubernetes do.

    Raises:
        UnsupportedError: in multiprocess mode, where each scrape would show one worker process out of many.
    """
    if getattr(ValueClass, "_multiprocess", False):
        raise UnsupportedError(
            "prometheus: multiprocess mode (PROMETHEUS_MULTIPROC_DIR) never asks a collector; let each worker be "
            "scraped by itself, with a DatabaseCollector in a registry of its own, or export by OpenTelemetry"
        )
    collector = DatabaseCollector(*databases, health=health)
    registry.register(collector)
    return collector


class DatabaseCollector(Collector):
    """The metrics of databases. A registry accepts only one collector; :meth:`add` further databases to it."""

    def __init__(self, *databases: AnyDatabase, health: HealthCheck | AsyncHealthCheck | None = None) -> None:
        self._databases: tuple[Any, ...] = databases
        self._health = health
        self._lock = renewed(self, "_lock")

    def add(self, database: AnyDatabase) -> None:
        """Export one more database."""
        with self._lock:
            self._databases = (*self._databases, database)

    def describe(self) -> Iterable[Family]:
        """Return the families without samples, so that a registry detects a second collector with the same names."""
        return [_family(metric) for metric in _FAMILIES]

    def collect(self) -> Iterable[Family]:
        """Return the current metrics. This queries no database and never waits."""
        readings: dict[Metric, dict[tuple[str, ...], Reading]] = {metric: {} for metric in _FAMILIES}
        for database in self._databases:
            of_database = identity(database.settings.target)
            for metric, attributes, reading in _read(database.stats(), of_database):
                named = labels(attributes)
                key = tuple(named.get(label_name(name), "") for name in _FAMILIES[metric])
                # Two pools to the same server and database are one time series here, as they are in OpenTelemetry.
                before = readings[metric].get(key)
                readings[metric][key] = reading if before is None else _sum(before, reading)
        if self._health is not None:
            readings[HEALTH] = dict(_read_health(self._health.last_findings()))
        return [_family(metric, found) for metric, found in readings.items()]


def _read(stats: DatabaseStats, of_database: Attributes) -> Iterator[tuple[Metric, Attributes, Reading]]:
    named = {POOL_NAME: stats.database}
    for summary, durations in stats.durations.items():
        yield DURATION, {**of_database, SUMMARY: summary}, durations
    yield from _read_pool(stats.pool, named)
    for node in stats.replicas:
        of_node = {POOL_NAME: pool_of(stats.database, node.name)}
        yield from _read_pool(node.pool, of_node)
        yield REPLICA_IN_ROTATION, {**of_node, ROLE: node.role}, float(node.in_rotation)
        if node.lag_seconds is not None:
            yield REPLICA_LAG, of_node, node.lag_seconds
    for kind, count in stats.retries.items():
        yield RETRY_COUNT, {**named, ERROR_KIND: kind.value}, count
    for kind, count in stats.errors.items():
        yield ERROR_COUNT, {**named, ERROR_KIND: kind.value}, count
    yield LEAK_COUNT, named, stats.leak_count
    yield REFUSED_COUNT, named, stats.retry_refused_count
    yield UNKNOWN_COUNT, named, stats.unknown_outcome_count
    yield SLOW_COUNT, named, stats.slow_count
    if stats.replicas:
        yield FALLBACK_COUNT, named, stats.replica_fallback_count


def _read_pool(pool: PoolStats, named: Attributes) -> Iterator[tuple[Metric, Attributes, Reading]]:
    yield COUNT, {**named, STATE: "idle"}, pool.idle
    yield COUNT, {**named, STATE: "used"}, pool.checked_out
    yield IDLE_MAX, named, pool.size
    yield IDLE_MIN, named, 0
    yield MAX, named, pool.size + pool.max_overflow
    yield PENDING, named, pool.pending
    yield TIMEOUTS, named, pool.timeout_count
    yield CREATE_TIME, named, pool.create
    yield WAIT_TIME, named, pool.wait
    yield USE_TIME, named, pool.use


def _read_health(findings: Iterable[Finding]) -> Iterator[tuple[tuple[str, ...], float]]:
    now = datetime.now(UTC)
    for finding in findings:
        if (now - finding.found_at).total_seconds() <= _STALE_SECONDS:
            for status in Status:
                yield (finding.name, status.value), float(status is finding.status)


def _sum(one: Reading, other: Reading) -> Reading:
    if isinstance(one, HistogramStats) and isinstance(other, HistogramStats):
        return HistogramStats(
            one.bounds,
            tuple(map(sum, zip(one.counts, other.counts, strict=True))),
            one.total_seconds + other.total_seconds,
            max(one.max_seconds, other.max_seconds),
        )
    assert not isinstance(one, HistogramStats)
    assert not isinstance(other, HistogramStats)
    return one + other


def _family(metric: Metric, readings: Mapping[tuple[str, ...], Reading] | None = None) -> Family:
    name, named = prometheus_name(metric), [label_name(name) for name in _FAMILIES[metric]]
    kinds: Any = {
        "histogram": HistogramMetricFamily,
        "counter": CounterMetricFamily,
        "updowncounter": GaugeMetricFamily,
    }
    family: Any = kinds[metric.instrument](name, metric.description, labels=named)
    for key, reading in (readings or {}).items():
        if isinstance(reading, HistogramStats):
            family.add_metric(key, buckets=_buckets(reading), sum_value=reading.total_seconds)
        else:
            family.add_metric(key, reading)
    return family  # type: ignore[no-any-return]


def _buckets(durations: HistogramStats) -> list[tuple[str, float]]:
    """Return the buckets as Prometheus defines them: each includes the counts of those below it."""
    bounds = [*map(floatToGoString, durations.bounds), "+Inf"]
    return list(zip(bounds, accumulate(durations.counts), strict=False))
