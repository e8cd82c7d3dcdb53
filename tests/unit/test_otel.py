"""Spans and metrics of one SQLite database: names, attributes, sampling, standing down, and letting go."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode

from prefiq_db import Database, ErrorKind
from prefiq_db.errors import UniqueViolationError, UsageError
from prefiq_db.events import StatementFinished
from prefiq_db.insight.statistics import MOST_SUMMARIES
from prefiq_db.integrations.operations import Operation
from prefiq_db.integrations.otel import instrument
from prefiq_db.integrations.otel_metrics import MetricListener
from prefiq_db.integrations.otel_spans import Spans
from tests.telemetry import Telemetry

INSERT = "insert into item (id) values (:id)"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.close()


@pytest.fixture
def db() -> Iterator[Database]:
    with Database("sqlite:///:memory:", name="shop") as made:
        made.execute("create table item (id integer primary key)")
        yield made


def operation(verb: str = "fetch_all", kind: ErrorKind | None = None, **fields: Any) -> Operation:
    made = Operation(verb, 1_000, None, context.get_current())
    if fields.pop("sent", True):
        made.sent(StatementFinished("shop", fields.pop("statement", "select ?"), {}, **fields))
    made.ended(0.5, kind, None)
    return made


IDENTITY = {"db.system.name": "postgresql", "db.namespace": "shop"}


def one_span(telemetry: Telemetry, told: Operation, identity: dict[str, Any] | None = None) -> Any:
    Spans(telemetry.tracers.get_tracer("test"), identity or IDENTITY).operation_ended(told)
    (span,) = telemetry.spans()
    return span


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (operation(summary="SELECT item"), "SELECT item"),
        (operation(operation="SELECT", tables=("item", "sold")), "SELECT item"),
        (operation(operation="SELECT"), "SELECT shop"),
        (operation(), "shop"),
        (operation(kind=ErrorKind.CONNECT_FAILED, sent=False), "shop"),
    ],
)
def test_a_span_has_the_name_that_the_conventions_give_it(telemetry: Telemetry, told: Operation, name: str) -> None:
    assert one_span(telemetry, told).name == name


def test_a_span_is_named_after_the_system_when_nothing_else_is_known(telemetry: Telemetry) -> None:
    assert one_span(telemetry, operation(), {"db.system.name": "mariadb"}).name == "mariadb"


def test_a_summary_has_at_most_255_characters(telemetry: Telemetry) -> None:
    span = one_span(telemetry, operation(summary="x" * 255, batch_size=2))
    assert span.name == span.attributes["db.query.summary"] == "BATCH " + "x" * 249


def test_one_row_is_no_batch(telemetry: Telemetry) -> None:
    """The conventions know a batch size of 0 and of 2 and more, never of 1."""
    assert "db.operation.batch.size" not in one_span(telemetry, operation(summary="INSERT a", batch_size=1)).attributes
    assert one_span(telemetry, operation(summary="INSERT a", batch_size=2)).attributes["db.operation.batch.size"] == 2


def test_operation_and_table_are_attributes_only_where_they_were_not_read_out_of_text(telemetry: Telemetry) -> None:
    fields: dict[str, Any] = {"operation": "INSERT", "tables": ("item",), "summary": "INSERT item", "batch_size": 3}
    by_name = one_span(telemetry, operation("bulk_insert", **fields)).attributes
    assert (by_name["db.operation.name"], by_name["db.collection.name"]) == ("BATCH INSERT", "item")
    by_text = one_span(telemetry, operation("execute_many", **fields)).attributes
    assert not {"db.operation.name", "db.collection.name"} & by_text.keys()


def test_a_failure_without_a_code_is_told_by_its_kind(telemetry: Telemetry) -> None:
    span = one_span(telemetry, operation(kind=ErrorKind.POOL_TIMEOUT, sent=False))
    assert span.attributes["error.type"] == span.attributes["prefiq_db.error.kind"] == "pool_timeout"
    assert "db.response.status_code" not in span.attributes


def test_the_tags_of_a_call_are_attributes(telemetry: Telemetry, db: Database) -> None:
    telemetry.instrument(db)
    with db.override(tags={"route": "/orders"}):
        db.fetch_value("select 1")
    (span,) = telemetry.spans()
    assert span.attributes is not None
    assert span.attributes["prefiq_db.tag.route"] == "/orders"


def test_a_database_in_memory_is_internal_and_one_in_a_file_is_a_client(telemetry: Telemetry) -> None:
    memory = {"db.system.name": "sqlite", "db.namespace": ":memory:"}
    assert one_span(telemetry, operation(), memory).kind is SpanKind.INTERNAL
    assert one_span(telemetry, operation(), {**memory, "db.namespace": "app.db"}).kind is SpanKind.CLIENT
    assert one_span(telemetry, operation(), {**memory, "db.system.name": "postgresql"}).kind is SpanKind.CLIENT


# --- sampling -------------------------------------------------------------------------------------


class Choosing(Sampler):
    """Takes no spans of one name, and remembers what it was asked about."""

    def __init__(self, refused: str) -> None:
        self.refused = refused
        self.asked: dict[str, dict[str, Any]] = {}

    def should_sample(
        self, parent_context: Any, trace_id: int, name: str, kind: Any = None, attributes: Any = None, *rest: Any
    ) -> SamplingResult:
        self.asked[name] = dict(attributes)
        return SamplingResult(Decision.DROP if name == self.refused else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "choosing"


def test_a_sampler_sees_what_it_needs_to_choose(db: Database) -> None:
    """Name and attributes are there when the span begins; metrics are made whether it is taken or not."""
    sampler = Choosing("SELECT item")
    telemetry = Telemetry(sampler)
    telemetry.instrument(db)
    db.fetch_all("select id from item where id = :id", {"id": 1})
    db.execute(INSERT, {"id": 1})
    assert [span.name for span in telemetry.spans()] == ["INSERT item"]
    assert sampler.asked["SELECT item"] == {
        "db.system.name": "sqlite",
        "db.namespace": ":memory:",
        "db.query.text": "select id from item where id = ?",
        "db.query.summary": "SELECT item",
    }
    assert sum(point.count for point in telemetry.points("db.client.operation.duration")) == 2
    telemetry.close()


def test_a_span_lasts_as_long_as_the_metric_says(db: Database, telemetry: Telemetry) -> None:
    telemetry.instrument(db)
    db.fetch_all("select id from item")
    (span,) = telemetry.spans()
    (point,) = telemetry.points("db.client.operation.duration")
    assert span.end_time - span.start_time == round(point.sum * 1e9)


# --- metrics --------------------------------------------------------------------------------------


def test_summaries_that_are_made_up_anew_end_in_one_series(db: Database, telemetry: Telemetry) -> None:
    listener = MetricListener(db, telemetry.meters, IDENTITY)
    for number in range(MOST_SUMMARIES + 50):
        listener.operation_ended(operation(summary=f"SELECT t{number}"))
    points = telemetry.points("db.client.operation.duration")
    assert len(points) == MOST_SUMMARIES + 1
    (rest,) = (point for point in points if point.attributes["db.query.summary"] == "other")
    assert rest.count == 50


def test_databases_of_one_provider_share_instruments_and_not_their_numbers(telemetry: Telemetry) -> None:
    with (
        Database("sqlite:///:memory:", name="a", pool_size=1) as a,
        Database("sqlite:///:memory:", name="b", pool_size=2) as b,
    ):
        telemetry.instrument(a)
        telemetry.instrument(b)
        found = {
            point.attributes["db.client.connection.pool.name"]: point.value
            for point in telemetry.points("db.client.connection.idle.max")
        }
        assert found == {"a": 1, "b": 2}


def test_the_counters_of_ours_say_which_kind(db: Database, telemetry: Telemetry) -> None:
    telemetry.instrument(db)
    db.execute(INSERT, {"id": 1})
    with pytest.raises(UniqueViolationError):
        db.execute(INSERT, {"id": 1})
    (point,) = telemetry.points("db.client.operation.errors")
    assert point.value == 1
    assert point.attributes == {"db.client.connection.pool.name": "shop", "prefiq_db.error.kind": "unique"}


# --- coming and going -----------------------------------------------------------------------------


def test_uninstrument_ends_it_and_instrument_begins_again(db: Database, telemetry: Telemetry) -> None:
    instrumentation = telemetry.instrument(db)
    instrumentation.uninstrument()
    instrumentation.uninstrument()
    db.fetch_all("select id from item")
    assert telemetry.spans() == []
    assert telemetry.points("db.client.connection.count") == []
    telemetry.instrument(db)
    db.fetch_all("select id from item")
    assert len(telemetry.spans()) == 1


def test_a_database_is_instrumented_once(db: Database, telemetry: Telemetry) -> None:
    """Else every span would be there twice; a view is the same database."""
    telemetry.instrument(db)
    with pytest.raises(UsageError, match="uninstrument"):
        telemetry.instrument(db.using(timeout=1.0))


def test_an_instrumented_database_can_be_collected(telemetry: Telemetry) -> None:
    """Neither a provider nor we keep it alive."""
    db = Database("sqlite:///:memory:")
    telemetry.instrument(db)
    gone = weakref.ref(db)
    db.close()
    del db
    gc.collect()
    assert gone() is None
    assert telemetry.points("db.client.connection.count") == []


def test_without_a_provider_the_global_one_is_used_and_does_nothing(db: Database) -> None:
    instrumentation = instrument(db)
    db.fetch_all("select id from item")
    assert db.stats().hook_error_count == 0
    instrumentation.uninstrument()


def test_it_stands_down_where_another_tracer_listens(
    db: Database, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """opentelemetry-instrumentation-sqlalchemy on the engine: its spans stay the only ones, and one line says so."""
    sqlalchemy_tracer = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy.engine")
    usage = telemetry.meters.get_meter("theirs").create_up_down_counter("db.client.connections.usage")
    sqlalchemy_tracer.EngineTracer(telemetry.tracers.get_tracer("theirs"), db.engine, usage)
    with caplog.at_level(logging.INFO, "prefiq_db.otel"):
        instrumentation = telemetry.instrument(db)
    assert not instrumentation.tracing
    assert len(caplog.records) == 1
    db.fetch_all("select id from item")
    scopes: Sequence[Any] = [span.instrumentation_scope for span in telemetry.spans()]
    assert [scope.name for scope in scopes] == ["theirs"]
    assert len(telemetry.points("db.client.operation.duration")) == 1
    sqlalchemy_tracer.EngineTracer.remove_all_event_listeners()


def test_a_failed_call_has_no_message_and_no_exception_event(db: Database, telemetry: Telemetry) -> None:
    telemetry.instrument(db)
    db.execute(INSERT, {"id": 1})
    with pytest.raises(UniqueViolationError):
        db.execute(INSERT, {"id": 1})
    _, span = telemetry.spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert span.events == ()
