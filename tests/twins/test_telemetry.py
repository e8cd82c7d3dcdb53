"""Spans and metrics of OpenTelemetry are the same on every database and in both worlds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from prefiq_db import RetryPolicy
from prefiq_db.errors import PoolTimeoutError, PrefiqDbError, UniqueViolationError
from prefiq_db.integrations.conventions import CONVENTIONAL, OURS, ROWS
from tests.conftest import Backend
from tests.telemetry import Telemetry
from tests.twins.harness import Harness, make_database
from tests.twins.support import CREATE_STOCK, INSERT_STOCK, session_id

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
SYSTEM = {"sqlite": "sqlite", "postgresql": "postgresql", "mariadb": "mariadb"}
# PostgreSQL has a SQLSTATE; MariaDB's vendor code is preferred to its SQLSTATE; SQLite has its extended result code.
DUPLICATE = {"sqlite": "1555", "postgresql": "23505", "mariadb": "1062"}
# What a client hears of a session that an administrator ended: PostgreSQL says so, MariaDB hangs up.
LOST = {"postgresql": "server_shutdown", "mariadb": "connection_lost"}
QUICK = RetryPolicy(wait_initial_seconds=0.001, wait_max_seconds=0.002)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.close()


def identity(backend: Backend) -> dict[str, Any]:
    """Return the attributes of the database that every span has."""
    if backend.server is None:
        return {"db.system.name": "sqlite", "db.namespace": backend.url.removeprefix("sqlite:///")}
    return {
        "db.system.name": SYSTEM[backend.name],
        "db.namespace": backend.url.rpartition("/")[2].partition("?")[0],
        "server.address": backend.server.host,
        "server.port": backend.server.port,
    }


def without_code(span: Any) -> dict[str, Any]:
    """Return a span's attributes but for the line of the application."""
    return {name: value for name, value in span.attributes.items() if not name.startswith("code.")}


async def test_a_call_is_a_span_by_the_conventions(db: Any, backend: Backend, telemetry: Telemetry) -> None:
    """Name, kind, status and attributes: of a statement that succeeds, of a batch and of one that fails."""
    telemetry.instrument(db)
    await db.execute(CREATE_STOCK)
    await db.execute_many(INSERT_STOCK, [{"id": 1, "quantity": 10}, {"id": 2, "quantity": 20}])
    await db.fetch_all("select id from stock where quantity > :least and id < 1000", {"least": 5})
    with pytest.raises(UniqueViolationError):
        await db.execute(INSERT_STOCK, {"id": 1, "quantity": 10})
    create, batch, read, failed = telemetry.spans()
    assert [span.name for span in (create, batch, read, failed)] == [
        "CREATE stock", "BATCH INSERT stock", "SELECT stock", "INSERT stock",
    ]  # fmt: skip
    for span in (create, batch, read, failed):
        assert span.kind is SpanKind.CLIENT
        assert span.attributes.items() >= identity(backend).items()
        assert span.events == ()
        assert span.attributes["code.file.path"] == __file__
    assert batch.attributes["db.operation.batch.size"] == 2
    assert read.status.status_code is StatusCode.UNSET
    shown = without_code(read)
    text = shown.pop("db.query.text")
    assert "1000" not in text
    assert "quantity" in text
    rows = shown.pop("db.response.returned_rows", None)
    assert rows == (None if backend.name == "sqlite" else 2)  # sqlite3 can't tell before all rows are fetched
    assert shown == {**identity(backend), "db.query.summary": "SELECT stock"}
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, None)
    shown = without_code(failed)
    del shown["db.query.text"]
    assert shown == {
        **identity(backend),
        "db.query.summary": "INSERT stock",
        "error.type": DUPLICATE[backend.name],
        "db.response.status_code": DUPLICATE[backend.name],
        "prefiq_db.error.kind": "unique",
    }


async def test_statements_of_a_transaction_and_of_a_session_are_spans(db: Any, telemetry: Telemetry) -> None:
    """Each call in a transaction is one; what an ORM session or the engine sends has one for each statement."""
    await db.execute(CREATE_STOCK)
    telemetry.instrument(db)
    async with db.transaction() as tx:
        await tx.execute(INSERT_STOCK, {"id": 1, "quantity": 10})
        await db.fetch_value("select count(*) from stock")
    async with db.session() as session:
        await session.execute(sa.text("select quantity from stock"))
    assert [span.name for span in telemetry.spans()] == ["INSERT stock", "SELECT stock", "SELECT stock"]


@on_servers
async def test_attempts_of_a_call_are_one_span(make_db: Any, backend: Backend, telemetry: Telemetry) -> None:
    """A read whose connection is killed under it runs again; the span lasts over both and has no error."""
    db = make_db(pool_size=1, max_overflow=0, retry=QUICK)
    await db.execute(CREATE_STOCK)
    mine = await session_id(db, backend)
    killed: list[int] = []

    @db.hooks.before
    def kill_once(event: Any) -> None:
        if not killed:
            killed.append(mine)
            _kill(backend, mine)

    telemetry.instrument(db)
    assert await db.fetch_all("select id from stock") == []
    (span,) = telemetry.spans()
    assert (span.name, span.status.status_code) == ("SELECT stock", StatusCode.UNSET)
    assert span.attributes["prefiq_db.retries"] == 1
    assert not {"error.type", "prefiq_db.error.kind"} & span.attributes.keys()
    (point,) = telemetry.points("db.client.operation.duration")
    assert point.count == 1
    assert point.sum == pytest.approx((span.end_time - span.start_time) / 1e9)
    (retries,) = telemetry.points("db.client.operation.retries")
    assert (retries.value, retries.attributes["prefiq_db.error.kind"]) == (1, LOST[backend.name])


def _kill(backend: Backend, session: int) -> None:
    """End a session from outside; the next statement on it finds that out."""
    assert backend.server is not None
    if backend.name == "postgresql":
        # The second argument waits until the backend is gone.
        backend.server.execute(f"select pg_terminate_backend({session}, 5000)")
    else:
        backend.server.execute(f"kill {session}")


@on_servers
async def test_a_call_that_found_no_server_is_a_span(backend: Backend, world: str, telemetry: Telemetry) -> None:
    """It is named after the database, for there was no statement yet."""
    scheme = backend.name
    db = make_database(world, f"{scheme}://nobody@127.0.0.1:1/nowhere", retry=QUICK, connect_timeout_seconds=2)
    telemetry.instrument(db)
    with pytest.raises(PrefiqDbError):
        await db.fetch_all("select 1")
    (span,) = telemetry.spans()
    assert (span.name, span.status.status_code) == ("nowhere", StatusCode.ERROR)
    assert span.attributes["prefiq_db.error.kind"] == "connect_failed"
    assert span.attributes["prefiq_db.retries"] == QUICK.attempts - 1
    await db.close()


async def test_spans_are_children_of_the_callers_span(db: Any, harness: Harness, telemetry: Telemetry) -> None:
    """In each thread or task, of the span that is current there; workers at the same time don't mix."""
    await db.execute(CREATE_STOCK)
    telemetry.instrument(db)
    tracer = telemetry.tracers.get_tracer("application")
    met = [harness.event() for _ in range(3)]
    workers: dict[int, int] = {}

    async def work(number: int) -> None:
        with tracer.start_as_current_span(f"request {number}") as request:
            workers[request.get_span_context().span_id] = number
            met[number].set()
            for event in met:
                await event.wait()
            await db.fetch_all(f"select id, {number} as request{number} from stock")
            assert trace.get_current_span() is request, "ours is never current: it has no children"

    await harness.together(*(lambda number=number: work(number) for number in range(3)))
    calls = [span for span in telemetry.spans() if span.name == "SELECT stock"]
    assert len(calls) == 3
    for span in calls:
        number = workers[span.parent.span_id]
        assert f"request{number}" in span.attributes["db.query.text"]


async def test_a_new_thread_or_task_takes_the_callers_span_along(db: Any, world: str, telemetry: Telemetry) -> None:
    """``asyncio.to_thread`` and ``create_task`` copy the context; a bare thread has none, and its span no parent."""
    await db.execute(CREATE_STOCK)
    telemetry.instrument(db)
    plain: Any = getattr(db, "_wrapped", db)
    with telemetry.tracers.get_tracer("application").start_as_current_span("request") as request:
        if world == "async":
            await asyncio.create_task(plain.fetch_all("select id from stock"))
        else:
            bare = threading.Thread(target=plain.fetch_all, args=("select id from stock",))
            bare.start()
            bare.join()
    span = telemetry.spans()[0]
    assert (span.parent is None) if world == "sync" else (span.parent.span_id == request.get_span_context().span_id)


async def test_the_pool_is_measured(make_db: Any, telemetry: Telemetry) -> None:
    """Every metric of the conventions is there, with its unit, buckets and attributes, and says what happened."""
    db = make_db(name="shop", pool_size=1, max_overflow=1, pool_timeout_seconds=0.05, retry=RetryPolicy(attempts=1))
    telemetry.instrument(db)
    await db.execute(CREATE_STOCK)
    async with db.transaction() as first:
        await first.execute(INSERT_STOCK, {"id": 1, "quantity": 1})
        used = {
            point.attributes["db.client.connection.state"]: point
            for point in telemetry.points("db.client.connection.count")
        }
        assert (used["used"].value, used["idle"].value) == (1, 0)
    await _exhaust(db)
    metrics = telemetry.metrics()
    expected = {metric.name: metric for metric in (*CONVENTIONAL, *OURS)}
    assert metrics.keys() <= expected.keys()
    missing = (
        expected.keys() - metrics.keys() - {ROWS.name, "db.client.operation.retries", "db.client.connection.leaks"}
    )
    assert missing <= {"db.client.operation.errors"}
    for name, metric in metrics.items():
        assert (metric.unit, metric.description) == (expected[name].unit, expected[name].description)
        for point in metric.data.data_points:
            if hasattr(point, "explicit_bounds"):
                assert tuple(point.explicit_bounds) == expected[name].bounds
            if ".connection." in name:
                assert point.attributes["db.client.connection.pool.name"] == "shop"
    values = {
        name: [getattr(point, "value", None) for point in metric.data.data_points] for name, metric in metrics.items()
    }
    assert values["db.client.connection.max"] == [2]
    assert values["db.client.connection.idle.max"] == [1]
    assert values["db.client.connection.idle.min"] == [0]
    assert values["db.client.connection.pending_requests"] == [0]
    assert values["db.client.connection.timeouts"] == [1]
    pool = db.stats().pool
    for name, counted in (("wait_time", pool.wait), ("use_time", pool.use), ("create_time", pool.create)):
        (point,) = metrics[f"db.client.connection.{name}"].data.data_points
        assert (point.count, point.sum) == (counted.count, pytest.approx(counted.total_seconds))


async def _exhaust(db: Any) -> None:
    """Take both connections and ask for a third one."""
    async with db.session() as one, db.session() as two:
        for session in (one, two):
            await session.execute(sa.text("select 1"))
        with pytest.raises(PoolTimeoutError):
            await db.fetch_value("select 1")
