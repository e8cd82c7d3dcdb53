"""What Prometheus scrapes can be parsed, and is what OpenTelemetry's own exporter makes of the other metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from prefiq_db import Database
from prefiq_db.errors import PrefiqDbError, UnsupportedError
from prefiq_db.health import HealthCheck
from prefiq_db.integrations import prometheus
from prefiq_db.integrations.conventions import CONVENTIONAL, OF_HEALTH, OF_REPLICAS, OURS, ROWS, prometheus_name
from prefiq_db.integrations.otel import instrument

INSERT = "insert into item (id) values (:id)"


@pytest.fixture
def db() -> Iterator[Database]:
    with Database("sqlite:///:memory:", name="shop") as made:
        yield made


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def work(db: Database) -> None:
    """Do something of each kind that is counted and can be provoked without a server."""
    db.execute("create table item (id integer primary key)")
    db.execute(INSERT, {"id": 1})
    for _ in range(2):
        with pytest.raises(PrefiqDbError):
            db.execute(INSERT, {"id": 1})
    db.fetch_all("select id from item")


def scraped(registry: CollectorRegistry) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}


def values(family: Any) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sorted(filter(None, sample.labels.values()))): sample.value for sample in family.samples}


def test_every_metric_is_there_and_parses_in_both_formats(db: Database, registry: CollectorRegistry) -> None:
    prometheus.export(db, registry=registry)
    work(db)
    expected = {
        prometheus_name(metric) for metric in (*CONVENTIONAL, *OURS, *OF_REPLICAS, *OF_HEALTH) if metric is not ROWS
    }
    assert scraped(registry).keys() == expected
    openmetrics = generate_openmetrics(registry).decode()
    assert {family.name for family in parse_openmetrics(openmetrics)} == expected


def test_the_numbers_are_those_of_the_database(db: Database, registry: CollectorRegistry) -> None:
    prometheus.export(db, registry=registry)
    work(db)
    found = scraped(registry)
    assert values(found["db_client_operation_errors"])["db_client_operation_errors_total", "shop", "unique"] == 2
    assert values(found["db_client_connection_count"])["db_client_connection_count", "idle", "shop"] == 5
    durations = {
        (sample.name, sample.labels.get("le"), sample.labels["db_query_summary"]): sample.value
        for sample in found["db_client_operation_duration_seconds"].samples
    }
    name = "db_client_operation_duration_seconds"
    assert durations[f"{name}_count", None, "INSERT item"] == 3
    assert durations[f"{name}_bucket", "+Inf", "INSERT item"] == 3
    total = db.stats().durations["INSERT item"].total_seconds
    assert durations[f"{name}_sum", None, "INSERT item"] == pytest.approx(total)


def test_the_last_results_of_a_health_check_are_there(db: Database, registry: CollectorRegistry) -> None:
    """Only if it was asked, and not if that was long ago; a scrape checks nothing."""
    asked: list[str] = []

    def queue() -> bool:
        asked.append("queue")
        return False

    check = HealthCheck(db, checks={"queue:length": queue}, cache_seconds=60)
    prometheus.export(db, registry=registry, health=check)
    assert scraped(registry)["db_client_health_status"].samples == []
    assert asked == []
    check.readiness()
    found = {tuple(sample.labels.values()): sample.value for sample in health_samples(registry)}
    assert found == {
        ("shop:responseTime", "pass"): 1, ("shop:responseTime", "warn"): 0, ("shop:responseTime", "fail"): 0,
        ("queue:length", "pass"): 0, ("queue:length", "warn"): 0, ("queue:length", "fail"): 1,
    }  # fmt: skip
    assert asked == ["queue"]


def test_an_old_result_of_a_health_check_is_not_there(
    db: Database, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = HealthCheck(db)
    prometheus.export(db, registry=registry, health=check)
    check.health()
    assert len(health_samples(registry)) == 3
    monkeypatch.setattr(prometheus, "_STALE_SECONDS", -1.0)
    assert health_samples(registry) == []


def health_samples(registry: CollectorRegistry) -> list[Any]:
    samples: list[Any] = scraped(registry)["db_client_health_status"].samples
    return samples


def test_buckets_count_what_is_below_them_too(db: Database, registry: CollectorRegistry) -> None:
    prometheus.export(db, registry=registry)
    work(db)
    for family in scraped(registry).values():
        series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
                series.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        for buckets in series.values():
            assert buckets == sorted(buckets)
            assert [count for _, count in buckets] == sorted(count for _, count in buckets)


def test_one_dashboard_serves_both_exporters(db: Database, registry: CollectorRegistry) -> None:
    """Families, types, labels and buckets are those of OpenTelemetry's Prometheus exporter, for the same work."""
    reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=registry)
    provider = MeterProvider([reader])
    instrumentation = instrument(db, meter_provider=provider)
    work(db)
    theirs = scraped(registry)
    own_registry = CollectorRegistry()
    prometheus.export(db, registry=own_registry)
    ours = scraped(own_registry)
    # Counters that are still at nothing don't exist there; and rows returned are no business of db.stats().
    assert theirs.keys() - ours.keys() <= {prometheus_name(ROWS)}
    assert ours.keys() - theirs.keys() <= {
        "db_client_operation_retries", "db_client_connection_leaks", "db_client_connection_timeouts",
        "db_client_connection_create_time_seconds", "db_client_health_status",
        "db_client_replica_in_rotation", "db_client_replica_lag_seconds", "db_client_operation_replica_fallbacks",
    }  # fmt: skip
    for name in ours.keys() & theirs.keys():
        assert (ours[name].type, ours[name].documentation) == (theirs[name].type, theirs[name].documentation)
        assert _shape(ours[name], ours=True) == _shape(theirs[name]), name
    counts = ("db_client_connection_count", "db_client_connection_max", "db_client_operation_errors")
    for name in counts:
        assert values(ours[name]) == values(theirs[name])
    instrumentation.uninstrument()
    provider.shutdown()


def _shape(family: Any, *, ours: bool = False) -> set[tuple[str, frozenset[str], float | None]]:
    """Return the samples' names, labels and buckets; an empty label is none, and a failure's labels are only theirs."""
    failure = {"error_type", "db_response_status_code"}
    return {
        (
            sample.name,
            frozenset(name for name, value in sample.labels.items() if value and name != "le") - failure,
            float(sample.labels["le"]) if "le" in sample.labels else None,
        )
        for sample in family.samples
    }


def test_pools_to_the_same_database_are_one_series(registry: CollectorRegistry) -> None:
    """Their statements are added up; what belongs to a pool is told by the pool's name."""
    with Database("sqlite:///:memory:", name="a") as a, Database("sqlite:///:memory:", name="b") as b:
        prometheus.export(a, registry=registry).add(b)
        for db in (a, a, b):
            db.fetch_value("select 1")
        found = scraped(registry)
        (count,) = (
            sample.value
            for sample in found["db_client_operation_duration_seconds"].samples
            if sample.name.endswith("_count")
        )
        assert count == 3
        assert len(found["db_client_connection_max"].samples) == 2


def test_a_scrape_asks_no_database() -> None:
    """A database that is closed, or was never opened, is scraped like any other."""
    registry = CollectorRegistry()
    db = Database("postgresql://u@127.0.0.1:1/d")
    prometheus.export(db, registry=registry)
    assert values(scraped(registry)["db_client_connection_count"]) == {
        ("db_client_connection_count", "idle", "main"): 0,
        ("db_client_connection_count", "main", "used"): 0,
    }
    db.close()


def test_a_second_collector_is_refused_and_the_first_can_take_more(db: Database, registry: CollectorRegistry) -> None:
    collector = prometheus.export(db, registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus.export(db, registry=registry)
    registry.unregister(collector)
    prometheus.export(db, registry=registry)


def test_multiprocess_mode_is_refused_and_told_why(monkeypatch: pytest.MonkeyPatch, db: Database) -> None:
    monkeypatch.setattr(prometheus.ValueClass, "_multiprocess", True, raising=False)
    with pytest.raises(UnsupportedError, match="multiprocess"):
        prometheus.export(db, registry=CollectorRegistry())
