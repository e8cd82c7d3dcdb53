"""What a read may take on a replica that is behind, busy, frozen or restarting: no more than its own time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.bridge import spawn
from prefiq_db.errors import NotReadyError, PoolTimeoutError, PrefiqDbError
from prefiq_db.events import AttemptFailed, Listener
from tests.twins.harness import Harness
from tests.twins.replicated import BOTH, Replicated, clusters, replicated

__all__ = ["clusters", "replicated"]

pytestmark = [pytest.mark.parametrize("replicated", BOTH, indirect=True), pytest.mark.timeout(90)]

#: no test waits as long
FOR_EVER_SECONDS = 3600.0


def _nodes(db: Any) -> Any:
    return (db._core if db.is_async else db._wrapped._core).instance.readers.nodes


async def _made(replicated: Replicated, **fields: Any) -> Any:
    """Return a database with a table that its replicas have, each of which has a connection."""
    db = replicated.database(**fields)
    await db.execute("create table item (id integer primary key)")
    replicated.cluster.catch_up()
    await db.mark()
    for _ in range(2 * len(_nodes(db))):
        await db.using(replica=True).fetch_value("select 1")
    return db


async def _in_transaction(db: Any, sql: str) -> Any:
    async with db.transaction(read_only=True) as tx:
        return await tx.fetch_value(sql)


async def _streamed(db: Any, sql: str) -> Any:
    async with db.stream(sql) as rows:
        return [row[0] async for row in rows].pop()


async def _batched(db: Any, sql: str) -> Any:
    return (await db.batch([sql]))[0].rows[0][0]


WAYS: dict[str, Callable[[Any, str], Any]] = {
    "statement": lambda db, sql: db.fetch_value(sql),
    "transaction": _in_transaction,
    "stream": _streamed,
    "batch": _batched,
    "body": lambda db, sql: db.run_in_transaction(lambda tx: tx.fetch_value(sql)),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_reader_with_a_timeout_leaves_time_for_the_primary(replicated: Replicated, way: str) -> None:
    """However long the settings let it wait for a replica."""
    db = await _made(replicated, replica_wait_seconds=FOR_EVER_SECONDS)
    replicated.hold_back(60)
    await db.execute("insert into item values (1)")
    answered = await WAYS[way](db.using(replica=True, timeout=2), f"select ({replicated.port_sql}) from item")
    assert answered == replicated.ports[0]
    assert db.stats().replica_fallback_count == 1
    assert all(each.in_rotation for each in db.stats().replicas)


@pytest.mark.parametrize("before", ["question", "timeout"])
async def test_a_wait_has_no_time_limit_of_somebody_else(replicated: Replicated, before: str) -> None:
    """The connection was last used for the question how the node stands, or by a reader with little time."""
    db = await _made(replicated, replica_wait_seconds=20, pool_size=1, max_overflow=0)
    replicated.hold_back(4)
    if before == "timeout":
        for _ in _nodes(db):
            await db.using(replica=True, timeout=0.3).fetch_value("select 1")
    await db.execute("insert into item values (1)")
    if before == "question":
        for node in _nodes(db):
            node._looked_at = 0.0  # it is asked again
    answered = await WAYS["transaction"](db.using(replica=True), f"select ({replicated.port_sql}) from item")
    assert answered in replicated.ports[1:]
    assert db.stats().replica_fallback_count == 0
    assert all(each.in_rotation for each in db.stats().replicas)


async def test_the_question_to_the_primary_ends_with_the_reader(replicated: Replicated) -> None:
    """How far a write went is asked of a primary that doesn't answer."""
    limits = dict.fromkeys(("statement_timeout_seconds", "connect_timeout_seconds"), FOR_EVER_SECONDS)
    db = await _made(replicated, **limits)
    core = db._core if db.is_async else db._wrapped._core
    primary = replicated.cluster.nodes[0]
    primary.freeze()
    try:
        async with db.override(tags={"scope": "own"}):
            core.instance.engine.dialect.marker.note(None)
            with pytest.raises(PrefiqDbError):
                await db.using(replica=True, timeout=1).fetch_value("select 1")
    finally:
        primary.thaw()


async def test_a_node_whose_connections_are_in_use_is_no_ill_node(replicated: Replicated, harness: Harness) -> None:
    """It can't be asked how it stands, and its next reader waits in line as for any pool."""
    db = await _made(
        replicated, read_from="replica", pool_size=1, max_overflow=0, pool_timeout_seconds=60,
        replicas=[{"url": replicated.url(1), "name": "r1"}],
    )  # fmt: skip
    (node,) = _nodes(db)
    read: list[int] = []

    async def hold() -> None:
        async with db.transaction(read_only=True, replica=True) as tx:
            await tx.fetch_value("select 1")
            node._looked_at = 0.0  # it is to be asked by the next one
            await harness.until(lambda: _value(node._looked_at > 0 or node.reason))

    async def take() -> None:
        await harness.until(lambda: _value(node._looked_at == 0))
        read.append(await db.using(replica=True).fetch_value(replicated.port_sql))

    await harness.together(hold, take)
    assert read == [replicated.ports[1]]
    assert db.stats().replica_fallback_count == 0


async def test_who_waits_in_vain_for_a_connection_is_told_who_has_them(replicated: Replicated) -> None:
    """Where only replicas may serve, the node stays in the rotation: the next reader may be luckier."""
    db = await _made(replicated, **_strict(replicated), pool_size=1, max_overflow=0, pool_timeout_seconds=0.05)
    raw = (db.engine_for("r1").sync_engine if db.is_async else db.engine_for("r1")).pool
    held = await spawn(raw.connect) if db.is_async else raw.connect()
    try:
        for way in WAYS.values():
            with pytest.raises(PoolTimeoutError, match="who has them"):
                await way(db.using(replica=True), replicated.port_sql)
    finally:
        await spawn(held.close) if db.is_async else held.close()
    for way in WAYS.values():
        assert await way(db.using(replica=True), replicated.port_sql) == replicated.ports[1]


async def _value(value: Any) -> bool:
    return bool(value)


# --- only replicas may serve ---------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_strict_read_outlasts_the_restart_of_its_only_replica(replicated: Replicated, way: str) -> None:
    """It is repeated as the policy says, as a read on a primary is."""
    policy = RetryPolicy(attempts=500, wait_max_seconds=0.2, total_seconds=60)
    db = await _made(replicated, **_strict(replicated), retry=policy)
    node = replicated.cluster.nodes[1]

    class Starts(Listener):
        failed = 0

        def attempt_failed(self, event: AttemptFailed) -> None:
            self.failed += 1
            if self.failed == 2:
                node.start()

    starts = Starts()
    node.kill()
    db.hooks.add(starts)
    try:
        answered = await WAYS[way](db.using(replica=True), replicated.port_sql)
    finally:
        if starts.failed < 2:
            node.start()
    assert answered == replicated.ports[1]
    assert starts.failed >= 2
    assert db.stats().replica_fallback_count == 0


@pytest.mark.parametrize("way", WAYS)
async def test_control_without_a_retry_it_fails(replicated: Replicated, way: str) -> None:
    db = await _made(replicated, **_strict(replicated), retry=RetryPolicy(attempts=1))
    node = replicated.cluster.nodes[1]
    node.kill()
    try:
        with pytest.raises(NotReadyError, match=r"r1 \(.+\)"):
            await WAYS[way](db.using(replica=True), replicated.port_sql)
        assert db.stats().replica_fallback_count == 1, "counted once"
    finally:
        node.start()


def _strict(replicated: Replicated) -> dict[str, Any]:
    return {"read_from": "replica", "replicas": [{"url": replicated.url(1), "name": "r1"}]}
