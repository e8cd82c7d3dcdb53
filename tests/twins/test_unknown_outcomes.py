"""A write of unknown outcome is counted once, whatever sent it; one whose outcome was found is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.errors import OutcomeUnknownError
from prefiq_db.testing.faults import COMMIT, CutReply, FaultProxy, Message
from tests.conftest import Backend
from tests.telemetry import Telemetry
from tests.twins.harness import drive, make_database
from tests.twins.support import upgrade_schema

pytestmark = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
POLICY = RetryPolicy(attempts=3, wait_initial_seconds=0.001, wait_max_seconds=0.01, total_seconds=8)
ADD = "update stock set quantity = quantity + 1"


@pytest.fixture
def distant(backend: Backend, db: Any, world: str, proxy: FaultProxy, loop_runner: asyncio.Runner) -> Iterator[Any]:
    """A database with a table of one row, through the proxy."""
    run: Any = loop_runner.run if world == "async" else drive
    run(db.execute("create table stock (quantity integer not null)"))
    run(db.execute("insert into stock (quantity) values (0)"))
    far = make_database(world, proxy.url(backend.url), ssl_mode="disable", pool_size=2, retry=POLICY)
    run(far.open())
    yield far
    run(far.close())


def is_write(message: Message) -> bool:
    return "update stock" in message.sql


async def in_a_block(db: Any) -> None:
    async with db.transaction() as tx:
        await tx.execute(ADD)


async def by_last(db: Any) -> None:
    async with db.transaction() as tx:
        await tx.execute(ADD, last=True)


async def test_each_way_to_write_is_counted_once(distant: Any, proxy: FaultProxy) -> None:
    """A transaction, a batch and many rows at COMMIT, and a single write; for OpenTelemetry as well."""
    telemetry = Telemetry()
    telemetry.instrument(distant)
    ways = [
        (in_a_block, COMMIT),
        (by_last, COMMIT),
        (lambda db: db.batch([ADD, ADD]), COMMIT),
        (lambda db: db.execute_many(f"{ADD} where quantity > :n", [{"n": 1}, {"n": 2}]), COMMIT),
        (lambda db: db.execute(ADD), is_write),
    ]
    for number, (way, moment) in enumerate(ways, 1):
        with proxy.fault(CutReply(), on=moment, times=1) as plan, pytest.raises(OutcomeUnknownError):
            await way(distant)
        assert plan.hits == 1
        assert distant.stats().unknown_outcome_count == number
    (point,) = telemetry.points("db.client.operation.unknown_outcomes")
    assert point.value == len(ways)
    telemetry.close()


async def test_an_outcome_that_was_found_is_not_counted(distant: Any, backend: Backend, proxy: FaultProxy) -> None:
    """The control: the same faults, but the token tells, or the statement may be repeated, or it only reads."""
    upgrade_schema(backend)
    with proxy.fault(CutReply(), on=COMMIT, times=1) as plan:
        await distant.run_in_transaction(lambda tx: tx.execute(ADD), exactly_once=True)
    assert plan.hits == 1
    with proxy.fault(CutReply(), on=is_write, times=1) as plan:
        await distant.using(idempotent=True).execute(ADD)
    assert plan.hits == 1
    with proxy.fault(CutReply(), on=lambda message: "select" in message.sql, times=1):
        await distant.fetch_value("select quantity from stock")
    assert distant.stats().unknown_outcome_count == 0
