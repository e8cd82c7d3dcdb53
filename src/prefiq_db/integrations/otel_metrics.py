"""The metrics of one database: those of OpenTelemetry's conventions, and some of our own."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from prefiq_db.events import (
    AttemptFailed,
    ConnectionCheckedIn,
    ConnectionCheckedOut,
    ConnectionLeaked,
    ConnectionOpened,
    Listener,
    PoolTimedOut,
    StatementFailed,
)
from prefiq_db.forks import renewed
from prefiq_db.insight.statistics import MOST_SUMMARIES, OTHER
from prefiq_db.integrations.conventions import (
    COUNT,
    CREATE_TIME,
    DURATION,
    ERROR_COUNT,
    ERROR_KIND,
    FALLBACK_COUNT,
    IDLE_MAX,
    IDLE_MIN,
    LEAK_COUNT,
    MAX,
    PENDING,
    POOL_NAME,
    REFUSED_COUNT,
    REPLICA_IN_ROTATION,
    REPLICA_LAG,
    RETRY_COUNT,
    ROLE,
    ROWS,
    SCHEMA_URL,
    SLOW_COUNT,
    STATE,
    SUMMARY,
    TIMEOUTS,
    UNKNOWN_COUNT,
    USE_TIME,
    WAIT_TIME,
    Metric,
    Value,
    pool_of,
)
from prefiq_db.integrations.operations import Operation
from prefiq_db.integrations.otel_spans import describe_failure, describe_names, summary_of
from prefiq_db.reports import DatabaseStats, NodeStats

if TYPE_CHECKING:
    from prefiq_db.integrations.sources import AnyDatabase

Readings = tuple[tuple[Mapping[str, Value], Callable[[DatabaseStats], int | None]], ...]

# What is read from stats() when the metrics are collected: metric, further attributes, value. The counters among them
# have no event.
_READ: Final[tuple[tuple[Metric, Readings], ...]] = (
    (COUNT, (({STATE: "idle"}, lambda of: of.pool.idle), ({STATE: "used"}, lambda of: of.pool.checked_out))),
    (IDLE_MAX, (({}, lambda of: of.pool.size),)),
    (IDLE_MIN, (({}, lambda of: 0),)),  # the pool closes old connections and opens new ones on demand only
    (MAX, (({}, lambda of: of.pool.size + of.pool.max_overflow),)),
    (PENDING, (({}, lambda of: of.pool.pending),)),
    (REFUSED_COUNT, (({}, lambda of: of.retry_refused_count),)),
    (UNKNOWN_COUNT, (({}, lambda of: of.unknown_outcome_count),)),
    (SLOW_COUNT, (({}, lambda of: of.slow_count),)),
    (FALLBACK_COUNT, (({}, lambda of: of.replica_fallback_count if of.replicas else None),)),
    (REPLICA_IN_ROTATION, ()),
    (REPLICA_LAG, ()),
)

NodeReadings = tuple[tuple[Mapping[str, Value], Callable[[NodeStats], float | None]], ...]

# The same of each replica, whose pool has a name of its own.
_READ_OF_NODES: Final[Mapping[Metric, NodeReadings]] = {
    COUNT: (({STATE: "idle"}, lambda of: of.pool.idle), ({STATE: "used"}, lambda of: of.pool.checked_out)),
    IDLE_MAX: (({}, lambda of: of.pool.size),),
    IDLE_MIN: (({}, lambda of: 0),),
    MAX: (({}, lambda of: of.pool.size + of.pool.max_overflow),),
    PENDING: (({}, lambda of: of.pool.pending),),
    REPLICA_IN_ROTATION: (({}, lambda of: float(of.in_rotation)),),
    REPLICA_LAG: (({}, lambda of: of.lag_seconds),),
}


class _Instruments:
    """The instruments of one meter provider, shared by all databases: the API can't unregister a callback."""

    def __init__(self, meter: Meter) -> None:
        self.duration = _histogram(meter, DURATION)
        self.rows = _histogram(meter, ROWS)
        self.create_time = _histogram(meter, CREATE_TIME)
        self.wait_time = _histogram(meter, WAIT_TIME)
        self.use_time = _histogram(meter, USE_TIME)
        self.timeouts = _counter(meter, TIMEOUTS)
        self.retries = _counter(meter, RETRY_COUNT)
        self.errors = _counter(meter, ERROR_COUNT)
        self.leaks = _counter(meter, LEAK_COUNT)
        self._lock = renewed(self, "_lock")
        self._observed: weakref.WeakSet[MetricListener] = weakref.WeakSet()
        for metric, readings in _READ:
            counts = metric.instrument == "counter"
            create: Any = meter.create_observable_counter if counts else meter.create_observable_up_down_counter
            create(metric.name, [self._reader(metric, readings)], unit=metric.unit, description=metric.description)

    def observe(self, listener: MetricListener) -> None:
        with self._lock:
            self._observed.add(listener)

    def forget(self, listener: MetricListener) -> None:
        with self._lock:
            self._observed.discard(listener)

    def _reader(self, metric: Metric, readings: Readings) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(options: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                listeners = list(self._observed)
            for listener in listeners:
                stats = listener.stats()
                for attributes, value in readings:
                    if (found := value(stats)) is not None:
                        yield Observation(found, {**listener.named, **attributes})
                for node in stats.replicas:
                    yield from _observed_of(stats.database, node, metric)

        return read


def _observed_of(database: str, node: NodeStats, metric: Metric) -> Iterable[Observation]:
    for attributes, value in _READ_OF_NODES.get(metric, ()):
        found = value(node)
        named = {POOL_NAME: pool_of(database, node.name), **attributes}
        if metric is REPLICA_IN_ROTATION:
            named[ROLE] = node.role
        if found is not None:
            yield Observation(found, named)


def _histogram(meter: Meter, metric: Metric) -> Histogram:
    return meter.create_histogram(
        metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.bounds
    )


def _counter(meter: Meter, metric: Metric) -> Counter:
    return meter.create_counter(metric.name, metric.unit, metric.description)


class _Global:
    """Stands for the global meter provider, which is a different object before and after it is set."""


_GLOBAL: Final = _Global()
_by_provider: weakref.WeakKeyDictionary[MeterProvider | _Global, _Instruments] = weakref.WeakKeyDictionary()
_lock = renewed(sys.modules[__name__], "_lock")


def _instruments(provider: MeterProvider | None) -> _Instruments:
    of_all = get_meter_provider()
    given = of_all if provider is None else provider
    key = _GLOBAL if given is of_all else given
    with _lock:
        made = _by_provider.get(key)
        if made is None:
            made = _by_provider[key] = _Instruments(given.get_meter("prefiq_db", schema_url=SCHEMA_URL))
        return made


class MetricListener(Listener):
    """Records what happens to one database and to its pool."""

    def __init__(self, db: AnyDatabase, provider: MeterProvider | None, identity: Mapping[str, Value]) -> None:
        self._db: Any = db
        self._identity = identity
        # Not on SQL, where only some calls would have the names: a series would split by verb.
        self._sends_commands = db.settings.target.product.keeps_documents
        self._summaries: set[str] = set()
        self.named: Mapping[str, Value] = {POOL_NAME: db.name}
        self._to = _instruments(provider)
        self._to.observe(self)
        for counter in (self._to.timeouts, self._to.leaks):
            counter.add(0, self.named)  # or the first one would be no increase of a series that was not there before

    def close(self) -> None:
        self._to.forget(self)

    def stats(self) -> DatabaseStats:
        stats: DatabaseStats = self._db.stats()
        return stats

    def operation_ended(self, operation: Operation) -> None:
        attributes = {**self._identity, **describe_failure(operation)}
        if summary := self._summary(operation):
            attributes[SUMMARY] = summary
            if self._sends_commands and operation.statement is not None and summary == summary_of(operation.statement):
                attributes |= describe_names(operation, self._identity)
        self._to.duration.record(operation.duration_seconds, attributes)
        if operation.rows >= 0:
            self._to.rows.record(operation.rows, attributes)

    def _summary(self, operation: Operation) -> str:
        """Return the summary, or ``other`` if there are too many already: each is a separate time series."""
        summary = "" if operation.statement is None else summary_of(operation.statement)
        if not summary or summary in self._summaries:
            return summary
        if len(self._summaries) >= MOST_SUMMARIES:
            return OTHER
        self._summaries.add(summary)
        return summary

    def statement_failed(self, event: StatementFailed) -> None:
        self._to.errors.add(1, {**self.named, ERROR_KIND: event.kind.value})

    def attempt_failed(self, event: AttemptFailed) -> None:
        kind = "unknown" if event.kind is None else event.kind.value
        self._to.retries.add(1, {**self.named, ERROR_KIND: kind})

    def connection_opened(self, event: ConnectionOpened) -> None:
        self._to.create_time.record(event.duration_seconds, self.named)

    def connection_checked_out(self, event: ConnectionCheckedOut) -> None:
        self._to.wait_time.record(event.wait_seconds, self.named)

    def connection_checked_in(self, event: ConnectionCheckedIn) -> None:
        self._to.use_time.record(event.use_seconds, self.named)

    def pool_timed_out(self, event: PoolTimedOut) -> None:
        self._to.timeouts.add(1, self.named)

    def connection_leaked(self, event: ConnectionLeaked) -> None:
        self._to.leaks.add(1, self.named)
