"""Real databases, transactions that get in each other's way, and what their histories show."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database, RetryPolicy
from prefiq_db.testing.faults import COMMIT, Append, CutReply, FaultProxy, ListAppend, Read
from tests.chaos.conftest import wired
from tests.chaos.controls import TransferFunction, blind_retry
from tests.conftest import Backend

# Many conflicts need many attempts.
RETRY = RetryPolicy(attempts=20, wait_initial_seconds=0.01, wait_max_seconds=0.2, total_seconds=60)


@pytest.fixture
def lists(backend: Backend) -> ListAppend:
    if backend.server is None:
        made = ListAppend(backend.url.removeprefix("sqlite:///"))
    else:
        made = ListAppend(backend.server, backend.url.rpartition("/")[2])
    made.create()
    return made


def run(world: str, lists: ListAppend, url: str, count: int, how: Any, *, workers: int = 8) -> None:
    async def run_async() -> None:
        async with AsyncDatabase(url) as db:
            await lists.run_async(db, count, workers=workers, run=how)

    if world == "async":
        asyncio.run(run_async())
        return
    with Database(url) as db:
        lists.run(db, count, workers=workers, run=how)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_no_anomaly_beyond_the_level(
    backend: Backend, world: str, lists: ListAppend, transfers: int, level: str
) -> None:
    if backend.name == "sqlite":
        level = "SERIALIZABLE"  # the only one it has

    def how(db: Any, body: Any) -> Any:
        isolation = None if backend.name == "sqlite" else level
        return db.run_in_transaction(body, isolation=isolation, retry=RETRY)

    run(world, lists, backend.url, transfers, how)
    report = lists.check()
    is_innodb = backend.name == "mariadb" and level == "REPEATABLE READ"
    assert report.beyond("INNODB REPEATABLE READ" if is_innodb else level) == (), report
    assert report.committed == transfers
    assert report.unknown == 0
    operations = [operation for attempt in lists.history for operation in attempt.operations]
    assert any(isinstance(operation, Read) and operation.values for operation in operations)
    assert sum(isinstance(operation, Append) for operation in operations) > transfers / 2


@wired
def test_what_read_committed_allows_is_seen(backend: Backend, world: str, lists: ListAppend) -> None:
    """The control: the same transactions do have anomalies where they may."""

    def how(db: Any, body: Any) -> Any:
        return db.run_in_transaction(body, isolation="READ COMMITTED", retry=RETRY)

    for _ in range(20):
        run(world, lists, backend.url, 100, how)
        report = lists.check()
        assert report.beyond("READ COMMITTED") == (), report
        if report.beyond("SERIALIZABLE"):
            return
    pytest.fail(f"no anomaly in {report}: would the checker see one?")


@wired
def test_an_append_that_is_retried_blindly_is_seen(
    backend: Backend, world: str, lists: ListAppend, proxy: FaultProxy
) -> None:
    """The control: an attempt that committed, and was taken for one that didn't."""

    def once(db: Any, body: Any) -> Any:
        return db.run_in_transaction(body, retry=RETRY)

    how: TransferFunction = blind_retry(world, once)
    with proxy.fault(CutReply(), on=COMMIT, every=10):
        run(world, lists, proxy.url(backend.url), 60, how)
    assert {"G1a"} <= {anomaly.name for anomaly in lists.check().beyond("READ COMMITTED")}


@wired
def test_without_a_retry_a_lost_reply_is_unknown_and_no_anomaly(
    backend: Backend, world: str, lists: ListAppend, proxy: FaultProxy
) -> None:
    with proxy.fault(CutReply(), on=COMMIT, every=10) as plan:
        run(world, lists, proxy.url(backend.url), 60, lambda db, body: db.run_in_transaction(body, retry=RETRY))
    report = lists.check()
    assert report.unknown == plan.hits > 0
    assert report.beyond("READ COMMITTED") == ()
