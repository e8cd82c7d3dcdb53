"""Galera: conflicts are run again, bad nodes left without a failed call, one node is written to unless all may be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from prefiq_db import DatabaseSettings, HealthReport, RetryPolicy
from prefiq_db.errors import DeadlockError, ErrorKind, PrefiqDbError, SettingsError
from prefiq_db.health import AsyncHealthCheck, HealthCheck
from prefiq_db.testing import GaleraCluster
from prefiq_db.testing.processes import wait_until
from tests.clusters import run_alone
from tests.conftest import Backend
from tests.twins.support import upgrade_schema
from tests.twins.test_wrong_node import ONCE, QUICK, Failures, in_all_sessions

pytestmark = [pytest.mark.mariadb, pytest.mark.timeout(3600)]

PORT = "select @@port"
SIZE = 3
PATIENT = RetryPolicy(attempts=1000, wait_initial_seconds=0.02, wait_max_seconds=0.2, total_seconds=240)


@pytest.fixture(scope="module")
def galera() -> Iterator[GaleraCluster]:
    with run_alone("galera", GaleraCluster, nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def name(galera: GaleraCluster) -> str:
    """A database on all nodes, with a table."""
    made = galera.create_database()
    upgrade_schema(Backend("mariadb", galera.nodes[0].url(made), galera.nodes[0]))
    galera.nodes[0].execute(f"create table {made}.stock (id integer primary key, quantity integer not null)")
    galera.nodes[0].execute(f"insert into {made}.stock values (1, 0), (2, 0)")
    for node in galera.nodes:
        assert wait_until(
            lambda node=node: node.execute(f"select count(*) from information_schema.tables "
                                           f"where table_schema = '{made}' and table_name = 'stock'") == [(1,)],
            timeout_seconds=30,
        )  # fmt: skip
    return made


@pytest.fixture
def usual_fields() -> dict[str, Any]:
    """The settings of the databases that these tests open."""
    return {"pool_size": SIZE, "max_overflow": 0, "retry": QUICK}


async def once_more(tx: Any) -> None:
    await tx.execute("update stock set quantity = quantity + 1 where id = 1")


async def quantity(db: Any, item: int = 1) -> int:
    return int(await db.fetch_value("select quantity from stock where id = :id", {"id": item}))


async def settled(db: Any) -> int:
    """Return the port of the node that all connections lead to.

    While the nodes agree on who is left, each of them may refuse work for a moment. Verbs wait for the end of that by
    themselves, and a raw connection doesn't.
    """
    for _ in range(100):
        with suppress(PrefiqDbError):
            if len(ports := await in_all_sessions(db, PORT, SIZE)) == 1:
                return int(ports.pop())
        await db.fetch_value(PORT)
    raise AssertionError("the connections lead to several nodes")


# --- conflicts -----------------------------------------------------------------------------------


async def test_a_conflict_at_commit_runs_the_whole_transaction_again(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """Another node committed the same row first: 1213 at COMMIT, and both changes are there once."""
    first, second = galera.nodes[:2]
    db = opened(galera.url(name, first))
    failures = db.hooks.add(Failures())
    before, runs = await quantity(db), []

    async def body(tx: Any) -> None:
        await once_more(tx)
        runs.append(1)
        if len(runs) == 1:
            second.execute(f"update {name}.stock set quantity = quantity + 10 where id = 1")

    await db.run_in_transaction(body)
    assert failures.kinds == [ErrorKind.DEADLOCK]
    assert len(runs) == 2
    assert await quantity(db) == before + 11


@pytest.mark.parametrize("way", ["attempts", "exactly_once", "last", "session"])
async def test_a_conflict_is_the_same_in_each_way(
    way: str, galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """What may run again does, once more and with one effect; what the caller runs says that it may."""
    first, second = galera.nodes[:2]
    db = opened(galera.url(name, first))
    before, runs = await quantity(db), []

    def interfere() -> None:
        runs.append(1)
        if len(runs) == 1:
            second.execute(f"update {name}.stock set quantity = quantity + 10 where id = 1")

    async def body(tx: Any) -> None:
        await once_more(tx)
        interfere()
        if way == "last":
            await tx.execute("update stock set quantity = quantity where id = 2", last=True)

    if way == "attempts":
        async for attempt in db.attempts():
            async with attempt as tx:
                await body(tx)
    elif way in ("exactly_once", "last"):
        await db.run_in_transaction(body, exactly_once=way == "exactly_once")
    else:
        with pytest.raises(DeadlockError) as told:
            async with db.session() as session:
                await session.execute(text("update stock set quantity = quantity + 1 where id = 1"))
                interfere()
                await session.commit()
        assert told.value.is_transient
    assert await quantity(db) == before + (10 if way == "session" else 11)
    assert len(runs) == (1 if way == "session" else 2)
    assert db.stats().pool.checked_out == 0


# --- nodes that are left -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["drained", "desynced", "partitioned"])
async def test_a_bad_node_is_left_without_a_failed_call(
    how: str, galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """Reads and writes go on with another node; afterwards nothing pulls the pool back."""
    first = galera.nodes[0]
    # While the others agree on who is left, each of them refuses work for a moment.
    db = opened(galera.url(name), ask_role_after_seconds=0, retry=PATIENT)
    await db.open()
    assert await in_all_sessions(db, PORT, SIZE) == {first.port}
    before = await quantity(db)
    with getattr(galera, how)(first):
        for _ in range(SIZE):
            assert await db.fetch_value(PORT) != first.port
            await db.run_in_transaction(once_more, exactly_once=True)
        port = await settled(db)
        assert port in {node.port for node in galera.nodes[1:]}
    galera.wait_until_synced()  # one of the others was out of step while it gave the first what it had missed
    assert await quantity(db) == before + SIZE
    assert await in_all_sessions(db, PORT, SIZE) == {port}, "nothing pulls it back"
    assert db.stats().pool.checked_out == 0


async def test_a_node_out_of_step_is_better_than_none(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """A donor lags behind, and works: it is used if no other node is there."""
    first, second = galera.nodes[:2]
    with galera.desynced(first), galera.drained(second):
        db = opened(galera.url(name, first, second))
        assert await db.fetch_value(PORT) == first.port


async def test_control_without_asking_reads_stay_on_a_node_out_of_step(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """No error says that a node is out of step, so only the question finds out."""
    first = galera.nodes[0]
    db = opened(galera.url(name), ask_role_after_seconds=3600)
    await db.open()
    with galera.desynced(first):
        assert await in_all_sessions(db, PORT, SIZE) == {first.port}
        await once_more(db)
        assert await db.fetch_value(PORT) == first.port


# --- which node ----------------------------------------------------------------------------------


async def test_all_pools_write_to_one_node_or_to_all(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """``write_to=one``: the first in the list that is well, for every pool; ``any``: connections are spread."""
    one = [opened(galera.url(name)) for _ in range(2)]
    for db in one:
        await db.open()
        assert await in_all_sessions(db, PORT, SIZE) == {galera.nodes[0].port}
    spread = opened(galera.url(name), write_to="any")
    await spread.open()
    assert await in_all_sessions(spread, PORT, SIZE) == {node.port for node in galera.nodes}


# --- health --------------------------------------------------------------------------------------


async def test_health_tells_the_nodes_state(galera: GaleraCluster, name: str, opened: Callable[..., Any]) -> None:
    """Synced is well, a donor warns, drained and cut off fail; each in Galera's own word."""
    first = galera.nodes[0]
    db = opened(galera.url(name, first), retry=ONCE)

    async def told() -> tuple[bool, str, str]:
        report: HealthReport = await db.health()
        return report.healthy, report.reason, report.details["state"]

    async def verdict() -> str:
        # A node in the middle of such a change may take more than the usual second.
        options = {"cache_seconds": 0, "deadline_seconds": 10}
        if db.is_async:
            found = await AsyncHealthCheck(db, **options).health()
        else:
            found = HealthCheck(db._wrapped, **options).health()
        return f"{found.status}: {found.reason}"

    assert await told() == (True, "", "Synced")
    with galera.desynced(first):
        assert await told() == (True, "", "Donor/Desynced")
        assert await verdict() == "warn: main: the node is Donor/Desynced"
    with galera.drained(first):
        assert await told() == (False, "not_ready: Drained", "Drained")
    with galera.partitioned(first):
        healthy, reason, state = await told()
        assert not healthy
        assert reason == f"not_ready: {state}"
        assert state in ("non-Primary", "Disconnected")
        assert await verdict() == f"fail: main: {reason}"


# --- causal reads --------------------------------------------------------------------------------


async def test_causal_reads_wait_for_what_another_node_committed(
    galera: GaleraCluster, name: str, opened: Callable[..., Any]
) -> None:
    """A node that applies nothing answers with old rows; with ``causal_reads`` the same read waits, and is right."""
    first, second = galera.nodes[:2]
    plain, causal = opened(galera.url(name, second)), opened(galera.url(name, second), causal_reads=True)
    await plain.open()
    await causal.open()
    lock = second.connect()
    locked = lock.cursor()
    locked.execute("flush tables with read lock")
    try:
        before = await quantity(plain, 2)
        first.execute(f"update {name}.stock set quantity = quantity + 1 where id = 2")
        assert await quantity(plain, 2) == before, "the control: nothing waits, and the row is old"
        timer = threading.Timer(0.3, lambda: locked.execute("unlock tables"))
        timer.start()
        assert await quantity(causal, 2) == before + 1
        timer.join()
    finally:
        lock.close()
    galera.wait_until_synced(second)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "postgres://h/d"])
def test_only_galera_has_causal_reads(url: str) -> None:
    """Elsewhere it would do nothing, so it is refused."""
    with pytest.raises(SettingsError, match="causal_reads"):
        DatabaseSettings(url=url, causal_reads=True)
