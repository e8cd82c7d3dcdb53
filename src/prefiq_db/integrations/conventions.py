"""The names of metrics and attributes for OpenTelemetry, and how they map to Prometheus; both exporters share them.

Source: OpenTelemetry's semantic conventions for databases, version 1.44. The names are copied here, and a test compares
them with the package opentelemetry-semantic-conventions; see decisions/0051-why-the-conventions-names-are-our-own.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prefiq_db.config import Target
from prefiq_db.insight.histogram import OPERATION_BOUNDS

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# --- attributes -----------------------------------------------------------------------------------

SYSTEM: Final = "db.system.name"
NAMESPACE: Final = "db.namespace"
SUMMARY: Final = "db.query.summary"
TEXT: Final = "db.query.text"
OPERATION: Final = "db.operation.name"
COLLECTION: Final = "db.collection.name"
BATCH_SIZE: Final = "db.operation.batch.size"
STATUS_CODE: Final = "db.response.status_code"
RETURNED_ROWS: Final = "db.response.returned_rows"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
POOL_NAME: Final = "db.client.connection.pool.name"
STATE: Final = "db.client.connection.state"
FILE: Final = "code.file.path"
LINE: Final = "code.line.number"
FUNCTION: Final = "code.function.name"
# Ours; the conventions have no name for it.
ERROR_KIND: Final = "prefiq_db.error.kind"
RETRIES: Final = "prefiq_db.retries"
HEALTH_CHECK: Final = "prefiq_db.health.check"
HEALTH_STATUS: Final = "prefiq_db.health.status"
ROLE: Final = "prefiq_db.replica.role"

# --- metrics --------------------------------------------------------------------------------------

Instrument = Literal["histogram", "counter", "updowncounter"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as the conventions' tables describe it; ``bounds`` are the advised buckets of a histogram."""

    name: str
    instrument: Instrument
    unit: str
    description: str
    bounds: tuple[float, ...] = ()


DURATION: Final = Metric(
    "db.client.operation.duration", "histogram", "s", "Duration of database client operations.", OPERATION_BOUNDS
)
ROWS: Final = Metric(
    "db.client.response.returned_rows",
    "histogram",
    "{row}",
    "The actual number of records returned by the database operation.",
    (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
)
COUNT: Final = Metric(
    "db.client.connection.count",
    "updowncounter",
    "{connection}",
    "The number of connections that are currently in state described by the `state` attribute.",
)
IDLE_MAX: Final = Metric(
    "db.client.connection.idle.max",
    "updowncounter",
    "{connection}",
    "The maximum number of idle open connections allowed.",
)
IDLE_MIN: Final = Metric(
    "db.client.connection.idle.min",
    "updowncounter",
    "{connection}",
    "The minimum number of idle open connections allowed.",
)
MAX: Final = Metric(
    "db.client.connection.max", "updowncounter", "{connection}", "The maximum number of open connections allowed."
)
PENDING: Final = Metric(
    "db.client.connection.pending_requests",
    "updowncounter",
    "{request}",
    "The number of current pending requests for an open connection.",
)
TIMEOUTS: Final = Metric(
    "db.client.connection.timeouts",
    "counter",
    "{timeout}",
    "The number of connection timeouts that have occurred trying to obtain a connection from the pool.",
)
CREATE_TIME: Final = Metric(
    "db.client.connection.create_time",
    "histogram",
    "s",
    "The time it took to create a new connection.",
    OPERATION_BOUNDS,
)
WAIT_TIME: Final = Metric(
    "db.client.connection.wait_time",
    "histogram",
    "s",
    "The time it took to obtain an open connection from the pool.",
    OPERATION_BOUNDS,
)
USE_TIME: Final = Metric(
    "db.client.connection.use_time",
    "histogram",
    "s",
    "The time between borrowing a connection and returning it to the pool.",
    OPERATION_BOUNDS,
)
# Ours; the conventions have no such metrics.
RETRY_COUNT: Final = Metric(
    "db.client.operation.retries", "counter", "{retry}", "Attempts beyond the first, by the kind of error before them."
)
ERROR_COUNT: Final = Metric("db.client.operation.errors", "counter", "{error}", "Statements that failed, by kind.")
LEAK_COUNT: Final = Metric("db.client.connection.leaks", "counter", "{leak}", "Connections reported as leaked.")
REFUSED_COUNT: Final = Metric(
    "db.client.operation.retries_refused",
    "counter",
    "{retry}",
    "Retries that were not made because the retry budget was used up.",
)
UNKNOWN_COUNT: Final = Metric(
    "db.client.operation.unknown_outcomes",
    "counter",
    "{operation}",
    "Transactions and single writes that may have happened or not, because no reply came.",
)
SLOW_COUNT: Final = Metric(
    "db.client.operation.slow", "counter", "{statement}", "Statements that took longer than slow_query_seconds."
)
FALLBACK_COUNT: Final = Metric(
    "db.client.operation.replica_fallbacks",
    "counter",
    "{operation}",
    "Reads for a replica that the primary answered, or nobody.",
)
REPLICA_IN_ROTATION: Final = Metric(
    "db.client.replica.in_rotation", "updowncounter", "{replica}", "Whether a replica gets reads: 1 or 0, by its role."
)
REPLICA_LAG: Final = Metric(
    "db.client.replica.lag", "updowncounter", "s", "How far a replica was behind when it was last asked."
)
HEALTH: Final = Metric(
    "db.client.health.status",
    "updowncounter",
    "{check}",
    "The last result of each health check: 1 for the status that it found, 0 for the others.",
)

CONVENTIONAL: Final = (
    DURATION, ROWS, COUNT, IDLE_MAX, IDLE_MIN, MAX, PENDING, TIMEOUTS, CREATE_TIME, WAIT_TIME, USE_TIME,
)  # fmt: skip
OURS: Final = (RETRY_COUNT, ERROR_COUNT, LEAK_COUNT, REFUSED_COUNT, UNKNOWN_COUNT, SLOW_COUNT)
#: Of databases with replicas; the pool of a replica is named ``main/r1``, after the database and itself.
OF_REPLICAS: Final = (REPLICA_IN_ROTATION, REPLICA_LAG, FALLBACK_COUNT)
# Not of a database but of a health check, which knows several; for Prometheus only.
OF_HEALTH: Final = (HEALTH,)

# --- databases ------------------------------------------------------------------------------------

Value = str | int


def identity(target: Target) -> dict[str, Value]:
    """Return the attributes that identify a database; all its spans and metrics carry them.

    ``db.namespace`` is the configured database (for SQLite the file as it was given), not one that a statement may
    have switched to. Of several hosts it is the first.
    """
    attributes: dict[str, Value] = {SYSTEM: target.product.dialect}
    if target.database:
        attributes[NAMESPACE] = target.database
    if target.hosts:
        first = target.hosts[0]
        attributes[SERVER_ADDRESS] = first.host
        if first.port != target.product.default_port:
            attributes[SERVER_PORT] = first.port
    return attributes


def pool_of(database: str, node: str) -> str:
    """Return the name of the pool of the replica *node*."""
    return f"{database}/{node}"


# --- Prometheus -----------------------------------------------------------------------------------


def prometheus_name(metric: Metric) -> str:
    """Return the name of *metric* by OpenTelemetry's mapping; a counter's ``_total`` is added by the exposition."""
    name = label_name(metric.name)
    return f"{name}_seconds" if metric.unit == "s" else name


def label_name(attribute: str) -> str:
    """Return the label that an attribute becomes."""
    return attribute.replace(".", "_")


def labels(attributes: Mapping[str, Value]) -> dict[str, str]:
    """Return *attributes* as labels; to Prometheus an absent label and an empty one are the same."""
    return {label_name(name): str(value) for name, value in attributes.items()}
