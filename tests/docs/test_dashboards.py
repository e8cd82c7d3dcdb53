"""The dashboard and the alert rules name only what the exporters really export, and nothing exported is forgotten."""

from __future__ import annotations

import gc
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from prefiq_db import Database, RetryPolicy
from prefiq_db.errors import ErrorClass, ErrorKind, PoolTimeoutError, PrefiqDbError, SerializationError
from prefiq_db.health import HealthCheck
from prefiq_db.integrations import prometheus
from prefiq_db.integrations.otel import instrument
from prefiq_db.integrations.schema import schema_at_head
from prefiq_db.marks import Standing
from tests.conftest import Backend
from tests.docs.pages import ROOT, prose
from tests.docs.promql import Selector, take_apart
from tests.docs.test_docs import _anchors

FOLDER = ROOT / "docs" / "dashboards"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"] for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
# Prometheus adds them to what it scrapes.
OF_THE_SCRAPE = {"job", "instance"}
# Exported families that no panel shows, and why.
NOT_SHOWN = {"db_client_connection_idle_min": "it is always 0"}
# What only one exporter has.
ONLY_OTEL = {"db_client_response_returned_rows": "db.stats() has the sum of rows, and no histogram"}
ONLY_PROMETHEUS = {"db_client_health_status": "a health check belongs to no meter"}
QUICK = RetryPolicy(attempts=5, wait_initial_seconds=0.001, wait_max_seconds=0.002)
CONFLICT = ErrorClass(ErrorKind.SERIALIZATION, transient=True, retry_statement=True, retry_transaction=True)


@dataclass
class Exported:
    """One scrape: the labels of each sample's name, the values of each label, and each family's type."""

    labels: dict[str, set[str]] = field(default_factory=dict)
    values: dict[str, set[str]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    families: set[str] = field(default_factory=set)
    rising: set[str] = field(default_factory=set)

    @classmethod
    def scrape(cls, registry: CollectorRegistry) -> Exported:
        made = cls()
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for sample in family.samples:
                made.families.add(family.name)
                made.types[sample.name] = family.type
                made.labels.setdefault(sample.name, set()).update(sample.labels)
                for name, value in sample.labels.items():
                    made.values.setdefault(name, set()).add(value)
                if sample.value > 0:
                    made.rising.add(family.name)
        return made


def drive(db: Database) -> HealthCheck:
    """Let everything happen once that is counted and needs no broken connection."""
    db.execute("create table item (id integer primary key)")
    db.execute("insert into item (id) values (1)")
    with pytest.raises(PrefiqDbError):
        db.execute("insert into item (id) values (1)")
    with db.engine.connect(), pytest.raises(PoolTimeoutError):  # the only connection
        db.fetch_value("select 1")

    def conflict(tx: Any) -> None:
        raise SerializationError("always", classification=CONFLICT)

    with pytest.raises(SerializationError):
        db.run_in_transaction(conflict)
    lost: Any = db.engine.connect()
    del lost
    gc.collect()
    check = HealthCheck(db, checks={f"{db.name}:schema": schema_at_head(db, tokens=True)})
    check.readiness()
    return check


@dataclass
class Producer:
    prometheus: Exported
    otel: Exported


def with_replicas(name: str) -> Database:
    """Return a database whose servers nobody has started, so that its replicas are out with the first read."""
    nobody = "postgres://app@127.0.0.1:1/shop"
    given: Mapping[str, Any] = {"replicas": [nobody, nobody], "connect_timeout_seconds": 1, "ssl_mode": "disable"}
    return Database(nobody, name=name, retry=QUICK, **given)


def produce(url: str) -> Producer:
    """Return what both exporters export of the same work."""
    theirs, registry = CollectorRegistry(), CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(disable_target_info=True, registry=theirs)])
    options: Mapping[str, Any] = {
        "pool_size": 1, "max_overflow": 0, "pool_timeout_seconds": 0.05, "retry": QUICK, "retry_budget": 1,
        "slow_query_seconds": 0,
    }  # fmt: skip
    db = Database(url, name="shop", **options)
    broken, unused = with_replicas("broken"), with_replicas("unused")
    # Before the pool is filled.
    instrumentations = [instrument(each, meter_provider=provider) for each in (db, broken, unused)]
    # No server is there to say so.
    follows, promoted = unused._base.instance.readers.nodes  # type: ignore[union-attr]  # it has replicas
    follows.standing, promoted.standing = Standing(True, lag_seconds=0.4), Standing(False)
    with db:
        with pytest.raises(PrefiqDbError):
            broken.using(replica=True).fetch_value("select 1")
        prometheus.export(db, broken, unused, registry=registry, health=drive(db))
        found = Producer(Exported.scrape(registry), Exported.scrape(theirs))
        for each in instrumentations:
            each.uninstrument()
    provider.shutdown()
    broken.close()
    unused.close()
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Producer:
    return produce(f"sqlite:///{tmp_path_factory.mktemp('dashboards') / 'shop.db'}")


def expressions() -> list[tuple[str, str]]:
    """Return every expression with where it stands; Grafana's variables have a value that PromQL can read."""
    shown = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
    shown += [(rule["alert"], rule["expr"]) for rule in RULES]
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert asked is not None
            shown.append((f"${name}", f"sum by ({asked[2]}) ({asked[1]})"))
    return [(where, re.sub(r"\[\$__\w+\]", "[5m]", text)) for where, text in shown]


def complaints(where: str, text: str, found: Exported) -> list[str]:
    """Return what is wrong with the names in an expression."""
    query = take_apart(text)
    wrong = [] if query.selectors else [f"{where}: no metric"]
    known: set[str] = set()
    for selector in query.selectors:
        if selector.metric not in found.labels:
            wrong.append(f"{where}: no metric {selector.metric}")
            continue
        labels = found.labels[selector.metric] | OF_THE_SCRAPE
        known |= labels
        wrong += [f"{where}: {selector.metric} has no label {name}" for name in sorted(selector.labels - labels)]
        wrong += [f"{where}: {reason}" for reason in _misuses(selector, query.grouped, found)]
    return wrong + [f"{where}: no label {name}" for name in sorted(query.grouped - known) if known]


def _misuses(selector: Selector, grouped: set[str], found: Exported) -> Iterator[str]:
    kind, metric = found.types[selector.metric], selector.metric
    counts = kind == "counter" or (kind == "histogram" and not metric.endswith("_created"))
    rated = selector.ranged and selector.inside[:1] in {("rate",), ("increase",)}
    if counts and not rated and grouped != {"db_namespace"}:  # that is the question for a variable's values
        yield f"{metric} is a counter without rate() or increase()"
    if not counts and selector.ranged:
        yield f"{metric} is a gauge with a range"
    quantile = "histogram_quantile" in selector.inside
    if quantile != metric.endswith("_bucket"):
        yield f"{metric}: histogram_quantile() and _bucket belong together"
    if quantile and "le" not in grouped:
        yield f"{metric}: histogram_quantile() without le"


def test_the_expressions_name_what_is_exported(exported: Producer) -> None:
    assert len(expressions()) > 50
    assert [each for where, text in expressions() for each in complaints(where, text, exported.prometheus)] == []


def test_the_expressions_name_what_opentelemetry_exports(exported: Producer) -> None:
    both = [(where, text) for where, text in expressions() if not any(name in text for name in ONLY_PROMETHEUS)]
    assert [each for where, text in both for each in complaints(where, text, exported.otel)] == []


def test_every_exported_family_is_shown_or_has_a_reason(exported: Producer) -> None:
    named = {selector.metric for _, text in expressions() for selector in take_apart(text).selectors}
    shown = {re.sub(r"_(bucket|count|sum|total)$", "", metric) for metric in named} | named
    assert exported.prometheus.families - shown == NOT_SHOWN.keys()
    assert exported.prometheus.families - exported.otel.families == ONLY_PROMETHEUS.keys()


def test_the_producer_made_everything_rise(exported: Producer) -> None:
    """Or a family could be there without anybody filling it; unknown outcomes have a test of their own, on servers."""
    at_rest = exported.prometheus.families - exported.prometheus.rising
    assert at_rest == {
        "db_client_connection_idle_min", "db_client_connection_pending_requests",
        "db_client_operation_unknown_outcomes",
    }  # fmt: skip


def test_the_values_that_expressions_ask_for_exist(exported: Producer) -> None:
    """A misspelt kind, state or status would match nothing, for ever."""
    kinds, values = {kind.value for kind in ErrorKind}, exported.prometheus.values
    for where, text in expressions():
        for name, operator, asked in re.findall(r'(\w+)(=~|!~|=|!=)"([^"$]+)"', text):
            if name == "prefiq_db_error_kind":
                assert set(asked.split("|")) <= kinds, where
            elif operator in ("=", "!="):
                assert asked in values[name], where
            else:
                assert any(re.fullmatch(asked, value) for value in values[name]), where


@pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
def test_servers_export_the_same_names(backend: Backend, exported: Producer) -> None:
    found = produce(backend.url)
    assert found.prometheus.labels == exported.prometheus.labels
    assert found.prometheus.types == exported.prometheus.types
    assert found.prometheus.values["server_address"] - {""}
    assert found.otel.families - found.prometheus.families == ONLY_OTEL.keys()  # sqlite3 doesn't count rows


WRONG = [
    ("sum(rate(db_client_operation_error_total[5m]))", "no metric db_client_operation_error_total"),
    ('db_client_connection_max{pool_name="shop"}', "has no label pool_name"),
    ("sum by (kind) (rate(db_client_operation_errors_total[5m]))", "no label kind"),
    ("db_client_operation_errors_total > 5", "without rate()"),
    ("sum(db_client_operation_duration_seconds_count)", "without rate()"),
    ("rate(db_client_connection_max[5m])", "gauge with a range"),
    ("histogram_quantile(0.9, sum by (job) (rate(db_client_connection_use_time_seconds_bucket[5m])))", "le"),
    ("histogram_quantile(0.9, sum by (le) (rate(db_client_connection_use_time_seconds_sum[5m])))", "_bucket"),
    ("db_client_connection_count / on (pool) db_client_connection_max", "no label pool"),
    ("vector(0)", "no metric"),
]


@pytest.mark.parametrize(("text", "complaint"), WRONG)
def test_control_a_planted_mistake_is_found(text: str, complaint: str, exported: Producer) -> None:
    found = complaints("here", text, exported.prometheus)
    assert complaint in "; ".join(found)


@pytest.mark.parametrize("text", ["sum(rate(x[5m])", "sum(x))", "a $ b"])
def test_control_what_is_no_promql_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"open|too many|PromQL"):
        take_apart(text)


# --- the files themselves ------------------------------------------------------------------------


def test_grafana_finds_what_it_needs() -> None:
    assert DASHBOARD["schemaVersion"] >= 38  # Grafana 10
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert {"database", "job"} <= VARIABLES.keys()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"\$\{?(?!__)(\w+)", text)) == VARIABLES.keys(), (
        "every variable is used, and every one exists"
    )
    for variable in VARIABLES.values():
        assert variable["type"] == "datasource" or variable["datasource"]["uid"] == "${datasource}"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells


def test_each_panel_says_what_to_do() -> None:
    for panel in PANELS:
        assert len(panel["description"].split(". ")) >= 2, panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_its_section(rule: dict[str, Any]) -> None:
    """Severity, words, and a section of a page that names the alert."""
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    words = rule["annotations"]
    assert words.keys() == {"summary", "description", "runbook_url"}
    path, _, anchor = words["runbook_url"].partition("#")
    assert anchor in _anchors(ROOT / path)
    sections = prose(ROOT / path).split("\n### ")
    assert any(
        section.startswith(_title(ROOT / path, anchor)) and f"*{rule['alert']}.*" in section for section in sections
    )


def _title(page: Any, anchor: str) -> str:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return next(each for each in headings if each.lower().replace(" ", "-").replace("?", "") == anchor)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_quotes_labels_that_it_has(rule: dict[str, Any], exported: Producer) -> None:
    """An aggregation leaves only its ``by``."""
    query = take_apart(rule["expr"])
    kept = set(query.grouped) if "by (" in rule["expr"] else set()
    if not kept:
        kept = set.union(*(exported.prometheus.labels[each.metric] for each in query.selectors)) | OF_THE_SCRAPE
    quoted = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
    assert quoted <= kept


def test_the_page_names_only_what_is_exported(exported: Producer) -> None:
    page = (ROOT / "docs" / "pool-sizing.md").read_text("utf-8")
    named = set(re.findall(r"\bdb_client_\w+", page))
    known = exported.prometheus.labels.keys() | exported.prometheus.families
    assert named <= known
    shown = {name.removesuffix("_total").removesuffix("_sum") for name in named}
    assert exported.prometheus.families - shown == {*NOT_SHOWN, "db_client_connection_idle_max"} - shown
    titles = {panel["title"] for panel in PANELS}
    assert {"Errors by kind", "Retries by kind"} <= titles


def test_the_alerts_are_what_promtool_reads(record_property: Callable[[str, object], None]) -> None:
    """Prometheus' own parser, where it is installed; without it, the report says so and our tokenizer has to do."""
    promtool = shutil.which("promtool")
    record_property("promtool", promtool or "not installed")
    if promtool is None:
        pytest.skip("promtool is not installed (apt-get install prometheus): only our own tokenizer read the rules")
    done = subprocess.run(
        [promtool, "check", "rules", str(FOLDER / "alerts.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(RULES)} rules found" in done.stdout
