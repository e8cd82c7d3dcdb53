"""The names in ``integrations/conventions.py`` are those of OpenTelemetry's own package and tables."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.semconv._incubating.attributes import db_attributes as incubating_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics as incubating
from opentelemetry.semconv.attributes import code_attributes, db_attributes, error_attributes, server_attributes
from opentelemetry.semconv.metrics import db_metrics as stable
from opentelemetry.semconv.schemas import Schemas

from prefiq_db import DatabaseSettings
from prefiq_db.config import Host, Target
from prefiq_db.integrations import conventions
from prefiq_db.integrations.conventions import CONVENTIONAL, OURS, Metric, identity, prometheus_name
from prefiq_db.masking import Secret

# docs/db/database-metrics.md of the semantic conventions; the package doesn't carry the advised buckets.
ADVISED_BUCKETS = {
    "db.client.operation.duration": (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10),
    "db.client.response.returned_rows": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000),
}


class _Table(NoOpMeter):
    """Notes what the conventions' factories ask a meter for."""

    def __init__(self) -> None:
        super().__init__("table")
        self.asked: dict[str, tuple[str, str, str]] = {}

    def create_histogram(self, name: str, unit: str = "", description: str = "", **advisory: Any) -> Any:
        self.asked[name] = ("histogram", unit, description)

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Any:
        self.asked[name] = ("counter", unit, description)

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> Any:
        self.asked[name] = ("updowncounter", unit, description)


def _conventions_table() -> dict[str, tuple[str, str, str]]:
    meter = _Table()
    for name, create in vars(incubating).items():
        if name.startswith("create_"):
            create(meter)
    return meter.asked


@pytest.mark.parametrize("metric", CONVENTIONAL, ids=lambda metric: metric.name)
def test_a_metric_is_that_of_the_conventions(metric: Metric) -> None:
    """Name, instrument, unit, description, and the buckets where some are advised."""
    assert _conventions_table()[metric.name] == (metric.instrument, metric.unit, metric.description)
    assert metric.bounds == ADVISED_BUCKETS.get(metric.name, metric.bounds)
    assert bool(metric.bounds) == (metric.instrument == "histogram")


def test_every_metric_of_the_conventions_is_exported() -> None:
    """All of ``db.client.*`` that is neither deprecated nor another product's."""
    told = {
        name for name in _conventions_table() if not name.startswith(("db.client.connections.", "db.client.cosmos"))
    }
    assert told == {metric.name for metric in CONVENTIONAL}
    assert conventions.DURATION.name == stable.DB_CLIENT_OPERATION_DURATION


def test_our_own_metrics_are_no_ones_elses() -> None:
    assert not {metric.name for metric in OURS} & _conventions_table().keys()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (conventions.SYSTEM, db_attributes.DB_SYSTEM_NAME),
        (conventions.NAMESPACE, db_attributes.DB_NAMESPACE),
        (conventions.SUMMARY, db_attributes.DB_QUERY_SUMMARY),
        (conventions.TEXT, db_attributes.DB_QUERY_TEXT),
        (conventions.OPERATION, db_attributes.DB_OPERATION_NAME),
        (conventions.COLLECTION, db_attributes.DB_COLLECTION_NAME),
        (conventions.BATCH_SIZE, db_attributes.DB_OPERATION_BATCH_SIZE),
        (conventions.STATUS_CODE, db_attributes.DB_RESPONSE_STATUS_CODE),
        (conventions.RETURNED_ROWS, incubating_attributes.DB_RESPONSE_RETURNED_ROWS),
        (conventions.POOL_NAME, incubating_attributes.DB_CLIENT_CONNECTION_POOL_NAME),
        (conventions.STATE, incubating_attributes.DB_CLIENT_CONNECTION_STATE),
        (conventions.ERROR_TYPE, error_attributes.ERROR_TYPE),
        (conventions.SERVER_ADDRESS, server_attributes.SERVER_ADDRESS),
        (conventions.SERVER_PORT, server_attributes.SERVER_PORT),
        (conventions.FILE, code_attributes.CODE_FILE_PATH),
        (conventions.LINE, code_attributes.CODE_LINE_NUMBER),
        (conventions.FUNCTION, code_attributes.CODE_FUNCTION_NAME),
    ],
)
def test_an_attribute_is_that_of_the_conventions(ours: str, theirs: str) -> None:
    assert ours == theirs


def test_the_schema_is_a_published_one() -> None:
    assert conventions.SCHEMA_URL in {schema.value for schema in Schemas}


@pytest.mark.parametrize(
    ("url", "system"),
    [
        ("sqlite:///app.db", incubating_attributes.DbSystemNameValues.SQLITE),
        ("postgresql://u@h/d", db_attributes.DbSystemNameValues.POSTGRESQL),
        ("mariadb://u@h/d", db_attributes.DbSystemNameValues.MARIADB),
        ("mysql://u@h/d", db_attributes.DbSystemNameValues.MYSQL),
    ],
)
def test_a_system_is_called_what_it_is(url: str, system: Any) -> None:
    assert identity(DatabaseSettings(url=url).target)["db.system.name"] == system.value


def test_a_port_is_told_when_it_is_not_the_standard_one() -> None:
    standard = Target("postgres", (Host("db.example", 5432),), database="shop")
    other = Target("postgres", (Host("db.example", 6432), Host("db2.example", 5432)), database="shop")
    expected = {"db.system.name": "postgresql", "db.namespace": "shop", "server.address": "db.example"}
    assert identity(standard) == expected
    assert identity(other) == {**expected, "server.port": 6432}


def test_an_identity_says_neither_user_nor_password_nor_options() -> None:
    target = Target(
        "postgres", (Host("h", 5432),), user="someone", password=Secret("hush"), database="d", options={"a": "b"}
    )
    assert set(identity(target)) == {"db.system.name", "db.namespace", "server.address"}


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (conventions.DURATION, "db_client_operation_duration_seconds"),
        (conventions.COUNT, "db_client_connection_count"),
        (conventions.IDLE_MAX, "db_client_connection_idle_max"),
        (conventions.TIMEOUTS, "db_client_connection_timeouts"),
    ],
)
def test_a_name_becomes_one_of_prometheus(metric: Metric, name: str) -> None:
    """Units in words at the end, annotations in braces nowhere; a counter gets ``_total`` when it is exposed."""
    assert prometheus_name(metric) == name
