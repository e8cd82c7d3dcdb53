"""Reads go to replicas and writes never, counted at the servers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import ClosedError, PrefiqDbError, ReadOnlyError, StatementRefusedError, UsageError
from prefiq_db.events import Listener, StatementFailed, StatementFinished
from prefiq_db.integrations.prometheus import DatabaseCollector
from tests.twins.harness import Harness
from tests.twins.replicated import BOTH, Replicated, clusters, replicated

__all__ = ["clusters", "replicated"]

pytestmark = pytest.mark.parametrize("replicated", BOTH, indirect=True)


async def _make_table(db: Any) -> None:
    await db.execute("create table item (id integer primary key, qty integer not null)")
    await db.execute("insert into item (id, qty) values (1, 10)")


async def test_each_verb_that_reads_goes_to_a_replica(replicated: Replicated) -> None:
    db = replicated.database()
    await _make_table(db)
    reader, sql = db.using(replica=True), replicated.port_sql
    met = [
        await reader.fetch_value(sql),
        (await reader.fetch_one(sql))[0],
        (await reader.fetch_exactly_one(sql))[0],
        (await reader.fetch_all(sql))[0][0],
        (await reader.execute(sql)).rows[0][0],
        (await reader.batch([sql]))[0].rows[0][0],
    ]
    async with reader.stream(sql) as rows:
        met += [row[0] async for row in rows]
    async with db.override(replica=True):
        met.append(await db.fetch_value(sql))
        met.append(await db.run_in_transaction(lambda tx: tx.fetch_value(sql)))
    async with db.transaction(read_only=True, replica=True) as tx:
        met.append(await tx.fetch_value(sql))
        met.append(await db.fetch_value(sql))
        async with tx.transaction() as inner:
            met.append(await inner.fetch_value(sql))
    async for attempt in db.using(replica=True).attempts(read_only=True):
        async with attempt as tx:
            met.append(await tx.fetch_value(sql))
    async with db.session(replica=True) as session:
        met.append(await session.scalar(sa.text(sql)))
    assert set(met) <= set(replicated.ports[1:]), "some went to the primary"
    assert set(met) == set(replicated.ports[1:]), "one replica got none of them"
    assert await db.fetch_value(sql) == replicated.ports[0]
    assert await reader.using(replica=False).fetch_value(sql) == replicated.ports[0]


async def test_no_write_is_sent_to_a_replica(replicated: Replicated) -> None:
    """Refused with the reason, from every verb; what arrived at the replicas is looked at."""
    db = replicated.database()
    await _make_table(db)
    reader = db.using(replica=True)
    table = sa.table("item", sa.column("id"), sa.column("qty"))
    insert = "insert into item (id, qty) values (2, 2) /* written */"

    async def streamed() -> None:
        async with reader.stream("select * from item for update /* written */"):
            pass

    async def in_transaction() -> None:
        async with db.transaction(read_only=True, replica=True) as tx:
            await tx.execute(insert)

    async def in_session() -> None:
        async with db.session(replica=True) as session:
            await session.execute(sa.text(insert))

    for write in (
        lambda: reader.execute(insert),
        lambda: reader.execute(sa.insert(table).values(id=2, qty=2)),
        lambda: reader.execute_many("insert into item (id, qty) values (:id, 2) /* written */", [{"id": 3}]),
        lambda: reader.batch(["select 1", insert]),
        lambda: reader.bulk_insert("item", [{"id": 4, "qty": 4}]),
        lambda: reader.upsert("item", [{"id": 4, "qty": 4}], key=["id"]),
        lambda: reader.fetch_all("select * from item where id = 1 for update /* written */"),
        lambda: reader.run_in_transaction(lambda tx: tx.execute(insert)),
        streamed,
        in_transaction,
        in_session,
    ):
        with pytest.raises(StatementRefusedError, match="replica"):
            await write()
    assert await db.fetch_value("select count(*) from item") == 1
    for recorder in replicated.recorders[1:]:
        assert b"written" not in recorder.sent
        assert b"INSERT INTO item" not in recorder.sent
    # The control: the recorder sees what does arrive.
    await reader.fetch_all("select qty /* seen */ from item")
    await reader.fetch_all("select qty /* seen */ from item")
    assert all(b"/* seen */" in recorder.sent for recorder in replicated.recorders[1:])


async def test_no_lock_is_taken_at_a_replica(replicated: Replicated) -> None:
    """It would keep nobody out: each server has its own."""
    db = replicated.database()
    lock = {
        "postgresql": ("select pg_advisory_xact_lock(7)", "select pg_try_advisory_xact_lock(7)"),
        "mariadb": ("select get_lock('seven', 0)", "select is_used_lock('seven')"),
    }[replicated.kind]
    for sql in lock:
        async with db.transaction(read_only=True, replica=True) as tx:
            with pytest.raises(StatementRefusedError, match="replica"):
                await tx.fetch_value(sql)
        with pytest.raises(StatementRefusedError, match="replica"):
            await db.using(replica=True).batch([sql])
        async with db.transaction(read_only=True) as tx:
            await tx.fetch_value(sql)


async def test_the_replica_itself_refuses_what_a_function_writes(replicated: Replicated) -> None:
    """Its words say that it reads, so the server judges; the reader is told, and the primary is not asked instead."""
    db = replicated.database()
    await _make_table(db)
    body = {
        "postgresql": "returns integer language sql as 'insert into item values (7, 7) returning id'",
        "mariadb": "returns integer modifies sql data begin insert into item values (7, 7); return 7; end",
    }[replicated.kind]
    if replicated.kind == "mariadb":
        for node in replicated.cluster.nodes:
            node.execute("set global log_bin_trust_function_creators = 1")
    await db.execute(f"create function spoil() {body}")
    replicated.cluster.catch_up()
    for number, read in enumerate(_READS):
        with pytest.raises(ReadOnlyError):
            await read(db.using(replica=True), f"select spoil() /* spoilt {number} */")
        assert b"spoilt %d" % number not in replicated.recorders[0].sent
        assert any(b"spoilt %d" % number in recorder.sent for recorder in replicated.recorders[1:])
    if replicated.kind == "mariadb":
        for read in _READS:
            with pytest.raises(StatementRefusedError):
                await read(db.using(replica=True), "set statement tx_read_only = 0 for select spoil()")
    assert await db.fetch_value("select count(*) from item") == 1


async def _read_in_transaction(db: Any, sql: str) -> None:
    async with db.transaction(read_only=True) as tx:
        await tx.fetch_value(sql)


async def _stream(db: Any, sql: str) -> None:
    async with db.stream(sql) as rows:
        [row async for row in rows]


_READS = (
    lambda db, sql: db.fetch_value(sql),
    lambda db, sql: db.batch([sql]),
    lambda db, sql: db.run_in_transaction(lambda tx: tx.fetch_value(sql)),
    _read_in_transaction,
    _stream,
)


async def test_in_a_writing_transaction_reads_stay_in_it(replicated: Replicated) -> None:
    db = replicated.database()
    await _make_table(db)
    async with db.transaction() as tx:
        await tx.execute("update item set qty = 11")
        assert await db.using(replica=True).fetch_value("select qty from item") == 11
        with pytest.raises(StatementRefusedError, match="replica"):
            await db.using(replica=True).execute("update item set qty = 12")
    assert await db.fetch_value("select qty from item") == 11


@pytest.mark.parametrize("read_from", ["primary", "replica", "replica_preferred"])
async def test_read_only_work_goes_where_the_settings_say(replicated: Replicated, read_from: str) -> None:
    db = replicated.database(read_from=read_from)
    sql, (primary, *replicas) = replicated.port_sql, replicated.ports
    expected = {primary} if read_from == "primary" else set(replicas)
    met = {await db.using(read_only=True).fetch_value(sql) for _ in range(4)}
    async with db.transaction(read_only=True) as tx:
        met.add(await tx.fetch_value(sql))
    assert met <= expected
    # A call that doesn't say that it only reads may belong to a decision to write.
    assert await db.fetch_value(sql) == primary
    async with db.transaction() as tx:
        assert await tx.fetch_value(sql) == primary
    async with db.transaction(read_only=True, replica=False) as tx:
        assert await tx.fetch_value(sql) == primary


async def test_rows_are_converted_once_wherever_they_come_from(replicated: Replicated) -> None:
    db, alone = replicated.database(), replicated.database(replicas=[])
    for each in (db, alone):
        for given in ({"replica": True}, {"replica": True, "read_only": True}):
            sql = "select 1 as one, 2 as two"
            assert await each.using(**given).fetch_all(sql, into=dict) == [{"one": 1, "two": 2}]
            assert await each.using(**given).fetch_value("select 1", into=lambda value: [value]) == [1]


async def test_the_least_loaded_for_its_weight_is_next(replicated: Replicated) -> None:
    nodes = [{"url": replicated.url(1), "name": "big", "weight": 3}, {"url": replicated.url(2), "name": "small"}]
    db = replicated.database(replicas=nodes)
    reader, sql = db.using(replica=True), replicated.port_sql
    met = Counter([await reader.fetch_value(sql) for _ in range(40)])
    assert met == {replicated.ports[1]: 30, replicated.ports[2]: 10}
    async with db.transaction(read_only=True, replica=True) as tx:
        busy = await tx.fetch_value(sql)
        if busy == replicated.ports[2]:  # one in use of weight 1 is more than none of weight 3
            assert {await reader.fetch_value(sql) for _ in range(4)} == {replicated.ports[1]}


async def test_the_engine_of_a_replica(replicated: Replicated) -> None:
    db = replicated.database()
    engine = db.engine_for("r2")
    statement = sa.text(replicated.port_sql)
    if db.is_async:
        async with engine.connect() as connection:
            port = await connection.scalar(statement)
    else:
        with engine.connect() as connection:
            port = connection.scalar(statement)
    assert port == replicated.ports[2]
    with pytest.raises(UsageError, match="r1, r2"):
        db.engine_for("r9")


async def test_a_database_is_opened_again_with_its_replicas(replicated: Replicated) -> None:
    db = replicated.database()
    await db.using(replica=True).fetch_value("select 1")
    await db.close()
    with pytest.raises(ClosedError):
        await db.using(replica=True).fetch_value("select 1")
    await db.open()
    assert await db.using(replica=True).fetch_value(replicated.port_sql) in replicated.ports[1:]


async def test_words_that_contradict_are_refused(replicated: Replicated) -> None:
    db = replicated.database()
    for wrong in (
        lambda: db.using(replica=True, read_only=False),
        lambda: db.transaction(replica=True),
        lambda: db.using(after="1p.0.0-1-1.0"),
        lambda: db.using(after=7),
    ):
        with pytest.raises(UsageError):
            wrong()


async def test_statistics_name_each_node(replicated: Replicated) -> None:
    db = replicated.database()
    await db.using(replica=True).fetch_value("select 1")
    await db.using(replica=True).fetch_value("select 1")
    found = db.stats().replicas
    assert [(each.name, each.in_rotation, each.reason) for each in found] == [("r1", True, ""), ("r2", True, "")]
    assert [each.pool.opened_count for each in found] == [1, 1]
    # MariaDB tells only a user with a privilege.
    assert {each.role for each in found} == {"replica" if replicated.kind == "postgresql" else "unknown"}


async def test_events_name_the_node_that_was_asked(replicated: Replicated) -> None:
    db = replicated.database()
    asked: list[tuple[str, str]] = []

    class Told(Listener):
        def statement_finished(self, event: StatementFinished) -> None:
            asked.append((event.statement, event.node))

        def statement_failed(self, event: StatementFailed) -> None:
            asked.append((event.statement, event.node))

    await _make_table(db)
    db.hooks.add(Told())
    await db.fetch_value("select 1")
    for _ in range(2):
        await db.using(replica=True).fetch_value("select 2")
    with pytest.raises(PrefiqDbError):
        await db.using(replica=True).fetch_value("select nothing from nowhere")
    async with db.transaction() as tx:
        await tx.fetch_value("select 3")
    met = {sql[:8]: {node for each, node in asked if each[:8] == sql[:8]} for sql, _ in asked}
    assert len(met["select ?"]) == 3, "of the primary, and of both replicas"
    assert met["select n"] <= {"r1", "r2"}
    assert asked[-1][1] == ""


async def test_health_and_metrics_name_each_node(replicated: Replicated) -> None:
    db = replicated.database()
    for _ in range(2):
        await db.using(replica=True).fetch_value("select 1")
    assert (await db.health()).details["replicas"] == "r1 (in the rotation), r2 (in the rotation)"
    samples = {
        (sample.name, sample.labels.get("db_client_connection_pool_name")): sample.value
        for family in DatabaseCollector(db).collect()
        for sample in family.samples
    }
    for node in ("r1", "r2"):
        assert samples["db_client_replica_in_rotation", f"main/{node}"] == 1
        assert samples["db_client_connection_max", f"main/{node}"] == 7
    assert samples["db_client_operation_replica_fallbacks_total", "main"] == 0


async def test_many_readers_at_once(replicated: Replicated, harness: Harness) -> None:
    db = replicated.database(pool_size=4)
    reader, met = db.using(replica=True), Counter[int]()

    async def work() -> None:
        for _ in range(20):
            met[await reader.fetch_value(replicated.port_sql)] += 1

    await harness.together(*[work] * 4)
    assert set(met) == set(replicated.ports[1:])


async def test_an_error_of_the_statement_is_the_statements(replicated: Replicated) -> None:
    """No other server is asked, and no node leaves the rotation."""
    db = replicated.database()
    with pytest.raises(PrefiqDbError, match="nowhere"):
        await db.using(replica=True).fetch_all("select * from nowhere")
    assert all(each.in_rotation for each in db.stats().replicas)
    assert db.stats().replica_fallback_count == 0
