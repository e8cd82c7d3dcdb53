"""Replicas that are killed, frozen, far behind or promoted: no read fails, and they come back by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import DatabaseSettings
from prefiq_db.errors import NotReadyError, PrefiqDbError
from prefiq_db.events import Listener, ReplicaChanged
from prefiq_db.testing.mariadb_cluster import PLAIN_USER
from prefiq_db.testing.processes import wait_until
from tests.twins.harness import Harness
from tests.twins.replicated import BOTH, Replicated, make_cluster, on_cluster

pytestmark = pytest.mark.parametrize("broken", BOTH, indirect=True)

# Short, so that a frozen server costs a read little.
LIMITS = {"statement_timeout_seconds": 1.0, "connect_timeout_seconds": 1.0, "pool_timeout_seconds": 5.0}


@pytest.fixture
def broken(request: pytest.FixtureRequest, world: str, loop_runner: Any) -> Iterator[Replicated]:
    """A database on a primary with two replicas of its own, for a test that breaks them."""
    with make_cluster(request.param, 2) as cluster:
        yield from on_cluster(request.param, cluster, world, loop_runner)


async def _reads(db: Any, sql: str, count: int = 20) -> set[Any]:
    """Read in every way; return which servers answered."""
    met = set()
    for number in range(count):
        reader = db.using(replica=True)
        if number % 4 == 0:
            async with db.transaction(read_only=True, replica=True) as tx:
                met.add(await tx.fetch_value(sql))
        elif number % 4 == 1:
            async with reader.stream(sql) as rows:
                met |= {row[0] async for row in rows}
        elif number % 4 == 2:
            met.add((await reader.batch([sql]))[0].rows[0][0])
        else:
            met.add(await reader.fetch_value(sql))
    return met


async def _returns(db: Any, sql: str, ports: set[int], harness: Harness) -> None:
    async def has_returned() -> bool:
        try:
            return await _reads(db, sql, 4) == ports
        except NotReadyError:  # strict, and none has been asked again yet
            return False

    await harness.until(has_returned)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_replica_that_dies_fails_no_read(broken: Replicated, harness: Harness, how: str) -> None:
    db, sql = broken.database(**LIMITS), broken.port_sql
    _, one, other = broken.ports
    assert await _reads(db, sql) == {one, other}
    changes: list[ReplicaChanged] = []

    class Told(Listener):
        def replica_changed(self, event: ReplicaChanged) -> None:
            changes.append(event)

    db.hooks.add(Told())
    node = broken.cluster.nodes[1]
    node.kill() if how == "killed" else node.freeze()
    try:
        # A read that is on its way to a frozen server may take its time limit; none fails.
        assert await _reads(db, sql) == {other}
        (out, fine) = db.stats().replicas
        assert (out.name, out.in_rotation, fine.in_rotation) == ("r1", False, True)
        assert out.reason
        assert out.lag_seconds is None, "what it said while it lived says nothing of now"
    finally:
        node.start() if how == "killed" else node.thaw()
    await _returns(db, sql, {one, other}, harness)
    assert all(each.in_rotation for each in db.stats().replicas)
    assert [(event.node, event.in_rotation) for event in changes] == [("r1", False), ("r1", True)]


async def test_sessions_leave_a_dead_replica_and_come_back(broken: Replicated, harness: Harness) -> None:
    """A session asks no node before: that no connection came about is noted, and one tries from time to time."""
    db, sql = broken.database(**LIMITS), sa.text(broken.port_sql)
    _, one, other = broken.ports

    async def ask() -> Any:
        async with db.session(replica=True) as session:
            return await session.scalar(sql)

    async def has_returned() -> bool:
        try:
            return {await ask() for _ in range(4)} == {one, other}
        except PrefiqDbError:
            return False

    assert await has_returned()
    broken.cluster.nodes[1].kill()
    met, failed = set(), 0
    for _ in range(40):
        try:
            met.add(await ask())
        except PrefiqDbError:
            failed += 1
    assert met == {other}
    assert 0 < failed < 10, "one that finds it out, and those who try: half of them before"
    broken.cluster.nodes[1].start()
    await harness.until(has_returned)
    assert all(each.in_rotation for each in db.stats().replicas)


async def test_when_all_are_out_the_primary_answers_or_an_error_names_them(
    broken: Replicated, harness: Harness
) -> None:
    preferred, strict = broken.database(**LIMITS), broken.database(read_from="replica", **LIMITS)
    sql = broken.port_sql
    await _reads(strict, sql, 4)
    for node in broken.cluster.nodes[1:]:
        node.kill()
    assert await _reads(preferred, sql, 8) == {broken.ports[0]}
    for read in (
        lambda: strict.using(replica=True).fetch_value(sql),
        lambda: strict.using(read_only=True).fetch_value(sql),
        lambda: _reads(strict, sql, 1),
    ):
        with pytest.raises(NotReadyError, match=r"r1 \(.+\), r2 \(.+\)"):
            await read()
    # Not read-only work, so it was never theirs.
    assert await strict.fetch_value(sql) == broken.ports[0]
    for node in broken.cluster.nodes[1:]:
        node.start()
    await _returns(strict, sql, set(broken.ports[1:]), harness)


async def test_a_replica_that_was_promoted_is_no_replica(broken: Replicated, harness: Harness) -> None:
    """PostgreSQL's says so; a user of MariaDB may ask only with a privilege."""
    db, sql = broken.database(**LIMITS), broken.port_sql
    await db.execute("create table item (id integer primary key)")
    assert await _reads(db, sql) == set(broken.ports[1:])
    if broken.kind == "mariadb":
        broken.cluster.primary.execute(f"grant slave monitor on *.* to {PLAIN_USER}")
        broken.cluster.catch_up()
        db = broken.database(**LIMITS)
        assert await _reads(db, sql) == set(broken.ports[1:])
    broken.cluster.primary.kill()
    promoted = broken.cluster.promote(broken.cluster.nodes[1])
    assert promoted.port == broken.ports[1]
    await _returns(db, sql, {broken.ports[2]}, harness)
    (out, _) = db.stats().replicas
    assert (out.role, out.reason) == ("primary", "promoted")


async def test_the_primary_may_stand_among_the_replicas(
    broken: Replicated, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """The settings name every host twice; whichever is the primary gets no reads there, and that is no warning."""
    if broken.kind == "mariadb":
        broken.cluster.primary.execute(f"grant slave monitor on *.* to {PLAIN_USER}")
        broken.cluster.catch_up()
    url, urls = broken.cluster.url(broken.name), [broken.url(number, direct=True) for number in range(3)]
    db, sql = broken.make(DatabaseSettings(url=url, replicas=urls, ssl_mode="disable", **LIMITS)), broken.port_sql
    assert await _reads(db, sql) == set(broken.ports[1:])
    assert [record.levelname for record in caplog.records if record.name == "prefiq_db.readers"] in ([], ["INFO"])
    old = broken.cluster.primary
    old.kill()
    broken.cluster.promote(broken.cluster.nodes[1])
    broken.cluster.rejoin(old)
    await _returns(db, sql, {broken.ports[0], broken.ports[2]}, harness)
    await db.execute("create table item (id integer primary key)")
    assert "replica replica-2 of database main gets no reads for now: promoted" in caplog.text


async def test_a_replica_that_lags_gets_no_reads_until_it_has_caught_up(broken: Replicated, harness: Harness) -> None:
    if broken.kind == "mariadb":
        broken.cluster.primary.execute(f"grant slave monitor on *.* to {PLAIN_USER}")
        broken.cluster.catch_up()
    db, sql = broken.database(max_replica_lag_seconds=1.0, **LIMITS), broken.port_sql
    writer = broken.database(replicas=[])
    await writer.execute("create table item (id integer primary key)")
    broken.cluster.catch_up()
    broken.cluster.hold_back(broken.cluster.nodes[1], 20)
    number = iter(range(10**6))

    async def is_out() -> bool:
        await writer.execute("insert into item values (:id)", {"id": next(number)})
        return await _reads(db, sql, 4) == {broken.ports[2]}

    await harness.until(is_out)
    (out, _) = db.stats().replicas
    assert out.reason == "behind"
    assert out.lag_seconds is not None
    assert out.lag_seconds > 1
    broken.cluster.hold_back(broken.cluster.nodes[1], 0)
    broken.cluster.catch_up()
    await _returns(db, sql, set(broken.ports[1:]), harness)


async def test_a_question_that_is_refused_is_not_put_again(
    broken: Replicated, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A user of MariaDB without SLAVE MONITOR: an error a second would be counted, and set off alarms."""
    monkeypatch.setattr("prefiq_db.readers.FRESH_SECONDS", 0.0)  # ask before each read
    db, sql = broken.database(**LIMITS), broken.port_sql
    with caplog.at_level("WARNING", "prefiq_db.readers"):
        assert await _reads(db, sql, 30) == set(broken.ports[1:])
    told = [record.getMessage() for record in caplog.records]
    errors = {} if broken.kind == "postgresql" else {"permission": 2}
    assert db.stats().errors == errors
    assert len(told) == sum(errors.values())
    assert all("GRANT SLAVE MONITOR" in each for each in told)
    # It is still asked whether it is there.
    broken.cluster.nodes[1].kill()
    assert await _reads(db, sql, 8) == {broken.ports[2]}


async def test_control_without_a_second_server_the_read_fails(broken: Replicated, monkeypatch: Any) -> None:
    """What the tests above find missing is seen."""
    from prefiq_db.core.reading import ReadingView

    db, sql = broken.database(read_from="replica", **LIMITS), broken.port_sql
    assert await _reads(db, sql, 8) == set(broken.ports[1:])
    monkeypatch.setattr(ReadingView, "_leave", lambda *args: False)
    broken.cluster.nodes[1].kill()
    broken.cluster.nodes[2].kill()
    assert wait_until(lambda: not broken.cluster.nodes[2].running, timeout_seconds=30)
    with pytest.raises(PrefiqDbError):
        await _reads(db, sql, 8)


def _cut_off(node: Any, kind: str) -> None:
    """Let *node* serve what it has, without a connection to its primary."""
    if kind == "mariadb":
        node.execute("stop slave io_thread")
        return
    node.execute("alter system set primary_conninfo = ''")
    node.execute("select pg_reload_conf()")
    followed = "select count(*) from pg_stat_wal_receiver"
    assert wait_until(lambda: node.execute(followed)[0][0] == 0, timeout_seconds=30)


async def test_a_replica_without_its_primary_leaves_once_it_may_be_too_old(
    broken: Replicated, harness: Harness
) -> None:
    """It can't know how old it is; MariaDB tells no lag then, and would serve the same for ever."""
    if broken.kind == "mariadb":
        broken.cluster.primary.execute(f"grant slave monitor on *.* to {PLAIN_USER}")
        broken.cluster.catch_up()
    db, sql = broken.database(max_replica_lag_seconds=1.0, **LIMITS), broken.port_sql
    assert await _reads(db, sql) == set(broken.ports[1:])
    _cut_off(broken.cluster.nodes[1], broken.kind)

    async def is_out() -> bool:
        return await _reads(db, sql, 4) == {broken.ports[2]}

    await harness.until(is_out)
    (out, fine) = db.stats().replicas
    assert (out.reason, fine.in_rotation) == ("behind", True)
    assert out.lag_seconds is not None
    assert out.lag_seconds > 1


async def test_reads_go_on_when_the_primary_has_died(broken: Replicated) -> None:
    """Also behind a primary that had nothing to write for longer than a replica may lag."""
    if broken.kind == "mariadb":
        broken.cluster.primary.execute(f"grant slave monitor on *.* to {PLAIN_USER}")
        broken.cluster.catch_up()
    db, sql = broken.database(max_replica_lag_seconds=30.0, **LIMITS), broken.port_sql
    assert await _reads(db, sql) == set(broken.ports[1:])
    for node in db._core.instance.readers.nodes if db.is_async else db._wrapped._core.instance.readers.nodes:
        node._looked_at = 0.0  # it is asked again
    broken.cluster.primary.kill()
    assert await _reads(db, sql) == set(broken.ports[1:])
