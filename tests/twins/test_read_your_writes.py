"""What was written is seen on a replica, or else on the primary, and asking for it costs the primary no round trip.

``PREFIQ_REPLICA_PAIRS`` is the number of pairs of a write and a read; ``nox -s chaos`` sets 10,000.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import UsageError
from prefiq_db.marks import seen_by
from tests.twins.harness import Harness
from tests.twins.replicated import BOTH, Replicated, clusters, replicated

__all__ = ["clusters", "replicated"]

pytestmark = pytest.mark.parametrize("replicated", BOTH, indirect=True)

PAIRS = int(os.environ.get("PREFIQ_REPLICA_PAIRS", "100"))
HELD_BACK_SECONDS = 2


async def _make_table(db: Any) -> None:
    await db.execute("create table item (id integer primary key, qty integer not null)")


def _forget(db: Any) -> None:
    """Forget what was written here: the control."""
    core = db._core if db.is_async else db._wrapped._core
    seen = seen_by(core.runtime.worker())
    for each in seen._all():
        each._marks.clear()
        each._unknown.clear()


async def _write_each_way(db: Any, number: int) -> None:
    """Write one row, each time in another way."""
    row = {"id": number, "qty": number}
    insert = "insert into item (id, qty) values (:id, :qty)"
    table = sa.table("item", sa.column("id"), sa.column("qty"))

    async def in_transaction() -> None:
        async with db.transaction() as tx:
            await tx.execute(insert, row)

    async def last() -> None:
        async with db.transaction() as tx:
            await tx.execute(insert, row, last=True)

    async def in_session() -> None:
        async with db.session() as session:
            await session.execute(sa.insert(table).values(row))
            await session.commit()

    ways = [
        lambda: db.execute(insert, row),
        lambda: db.execute(sa.insert(table).values(row)),
        lambda: db.execute_many(insert, [row]),
        lambda: db.batch([(insert, row)]),
        lambda: db.bulk_insert("item", [row]),
        lambda: db.upsert("item", [row], key=["id"]),
        lambda: db.fetch_all(insert + " returning id", row),
        lambda: db.run_in_transaction(lambda tx: tx.execute(insert, row)),
        in_transaction,
        last,
        in_session,
    ]
    await ways[number % len(ways)]()


async def _read_each_way(db: Any, number: int) -> Any:
    """Read one row on a replica, each time in another way."""
    select = "select qty from item where id = :id"
    given = {"id": number}

    async def in_transaction() -> Any:
        async with db.transaction(read_only=True, replica=True) as tx:
            return await tx.fetch_value(select, given)

    async def repeatably() -> Any:
        async with db.transaction(read_only=True, replica=True, isolation="REPEATABLE READ") as tx:
            return await tx.fetch_value(select, given)

    async def streamed() -> Any:
        async with db.using(replica=True).stream(select, given) as rows:
            return (await anext(aiter(rows)))[0]

    async def batched() -> Any:
        return (await db.using(replica=True).batch([(select, given)]))[0].rows[0][0]

    ways = [
        lambda: db.using(replica=True).fetch_value(select, given),
        lambda: db.using(replica=True, read_only=True).fetch_value(select, given),
        in_transaction,
        repeatably,
        streamed,
        batched,
    ]
    return await ways[number // 11 % len(ways)]()


async def test_each_write_is_seen_by_each_read(replicated: Replicated, harness: Harness) -> None:
    """With replicas held back, and little time to wait: 0 stale reads."""
    db = replicated.database(replica_wait_seconds=0.02, pool_size=4)
    await _make_table(db)
    replicated.hold_back(HELD_BACK_SECONDS)
    stale: list[int] = []

    async def pair(first: int, end: int) -> None:
        for number in range(first, end, 4):
            _forget(db)  # or it would wait for those before, and so show nothing
            async with db.override(tags={"pair": "a"}):
                await _write_each_way(db, number)
                try:
                    seen = await _read_each_way(db, number)
                except StopAsyncIteration:
                    seen = None
                if seen != number:
                    stale.append(number)

    for begin in range(0, PAIRS, 400):  # the harness waits a minute for each
        end = min(begin + 400, PAIRS)
        await harness.together(*[lambda first=begin + each, end=end: pair(first, end) for each in range(4)])
    assert stale == []
    assert db.stats().replica_fallback_count > PAIRS // 2, "the replicas were not behind: this shows nothing"


async def test_without_marks_reads_are_stale(replicated: Replicated) -> None:
    """The control: the same with what was written forgotten."""
    db = replicated.database(replica_wait_seconds=0.02)
    await _make_table(db)
    replicated.cluster.catch_up()
    replicated.hold_back(HELD_BACK_SECONDS)
    stale = 0
    for number in range(20):
        await db.execute("insert into item (id, qty) values (:id, 0)", {"id": number})
        _forget(db)
        stale += await db.using(replica=True).fetch_value("select count(*) from item") != number + 1
    assert stale > 10, "not all: a busy machine may take longer for one than they are held back"


async def test_the_replica_answers_when_it_has_got_it(replicated: Replicated) -> None:
    """The read waits for it there, where it may wait long enough."""
    db = replicated.database(replica_wait_seconds=30)
    await _make_table(db)
    sql = f"select count(*), ({replicated.port_sql}) from item"
    for number in range(1, 12):
        await _write_each_way(db, number)
        count, port = tuple(await db.using(replica=True).fetch_one(sql))
        assert count == number
        assert port in replicated.ports[1:]
    assert db.stats().replica_fallback_count == 0


async def test_the_primary_pays_no_round_trip_for_it(replicated: Replicated) -> None:
    """A write costs what it costs without replicas, and a read on a replica costs the primary nothing."""
    db = replicated.database(pool_size=1, max_overflow=0)
    plain = replicated.database(replicas=[], pool_size=1, max_overflow=0)
    primary, first, second = replicated.recorders
    await _make_table(db)
    await db.using(replica=True).fetch_value("select count(*) from item")
    await db.using(replica=True).fetch_value("select count(*) from item")

    async def statement(db: Any, number: int) -> None:
        await db.execute("insert into item values (:id, 1)", {"id": number})

    async def transaction(db: Any, number: int) -> None:
        async with db.transaction() as tx:
            await tx.execute("insert into item values (:id, 1)", {"id": number})

    async def last(db: Any, number: int) -> None:
        async with db.transaction() as tx:
            await tx.execute("insert into item values (:id, 1)", {"id": number}, last=True)

    async def batch(db: Any, number: int) -> None:
        await db.batch([("insert into item values (:id, 1)", {"id": number})])

    for place, way in enumerate((statement, transaction, last, batch)):
        await way(plain, 1000 + place)
        await way(db, 2000 + place)
        with primary.count() as without:
            await way(plain, 3000 + place)
        with primary.count() as with_mark:
            await way(db, 4000 + place)
        assert with_mark.round_trips == without.round_trips, way.__name__
        with primary.count() as asked, first.count() as one, second.count() as other:
            assert await db.using(replica=True).fetch_value("select count(*) from item") == 4 * (place + 1)
        assert asked.round_trips == 0, way.__name__
        # The read's own message, and at times one more that asks how the node stands, or polls until it has it.
        assert one.round_trips + other.round_trips >= 1


async def test_a_mark_goes_to_another_process(replicated: Replicated) -> None:
    """A token of one database object makes another one wait, which knows nothing of the write."""
    writer = replicated.database()
    reader = replicated.database(replica_wait_seconds=0.02)
    await _make_table(writer)
    replicated.cluster.catch_up()
    replicated.hold_back(HELD_BACK_SECONDS)
    await writer.execute("insert into item values (1, 1)")
    mark = await writer.mark()
    assert await reader.using(replica=True).fetch_value("select count(*) from item") == 0
    assert await reader.using(replica=True, after=mark).fetch_value("select count(*) from item") == 1
    async with reader.override(replica=True, after=mark):
        assert await reader.fetch_value("select count(*) from item") == 1
    assert mark == await writer.mark()


async def test_a_mark_that_is_none_is_refused(replicated: Replicated) -> None:
    db = replicated.database()
    await _make_table(db)
    mark = await db.mark()
    other = replicated.database(replicas=[])
    for wrong in (mark[:-1], mark + "0", mark.replace("-", "+"), "", "x", 7, b"1p", "1" + mark):
        with pytest.raises(UsageError, match="after") as caught:
            db.using(after=wrong)
        assert str(wrong) not in str(caught.value) or len(str(wrong)) < 3
    with pytest.raises(UsageError, match="replicas"):
        await other.mark()
    name = replicated.name
    replicated.name = replicated.cluster.create_database()
    elsewhere = replicated.database()
    replicated.name = name
    with pytest.raises(UsageError, match="another database"):
        elsewhere.using(after=mark)


async def test_a_mark_of_an_older_timeline_is_never_stale(replicated: Replicated) -> None:
    """Nor one of the future: whoever can't have it is not asked."""
    db = replicated.database(replica_wait_seconds=0.02)
    await _make_table(db)
    from prefiq_db.marks import Mark, mark_of

    kind = "p" if replicated.kind == "postgresql" else "m"
    ((domain, (branch, number)),) = mark_of(await db.mark(), kind, replicated.name).places.items()
    later = Mark(kind, {domain: (branch, number + 10**9)}).text(replicated.name)
    sql = replicated.port_sql
    assert await db.using(replica=True, after=later).fetch_value(sql) == replicated.ports[0]
    if kind == "p":
        branched = replicated.database(replica_wait_seconds=0.02)
        newer = Mark(kind, {domain: (branch + 1, number)}).text(replicated.name)
        assert await branched.using(replica=True, after=newer).fetch_value(sql) == replicated.ports[0]


async def test_a_scope_sees_what_its_tasks_write(replicated: Replicated) -> None:
    """Tasks that are started in a scope share what it has written; other scopes wait for nothing of it."""
    db = replicated.database(replica_wait_seconds=0.02)
    await _make_table(db)
    replicated.cluster.catch_up()
    replicated.hold_back(HELD_BACK_SECONDS)

    async def write(number: int) -> None:
        await db.execute("insert into item values (:id, 0)", {"id": number})

    async with db.override(tags={"scope": "a"}):
        if db.is_async:
            await asyncio.gather(write(1), write(2))
        else:
            await write(1)
            await write(2)
        assert await db.using(replica=True).fetch_value("select count(*) from item") == 2

    async def other_scope() -> Any:
        async with db.override(tags={"scope": "b"}):
            return await db.using(replica=True).fetch_value("select count(*) from item")

    if db.is_async:
        import contextvars

        assert await asyncio.create_task(other_scope(), context=contextvars.Context()) == 0
