"""What was written is seen on a replica, or else on the primary, and asking for it costs the primary no round trip.

``PREFIQ_REPLICA_PAIRS`` is the number of pairs of a write and a read; ``nox -s chaos`` sets 10,000.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.core.scope_marks import ScopeGate
from prefiq_db.errors import UsageError
from prefiq_db.marks import seen_by
from tests.twins.harness import Harness
from tests.twins.replicated import BOTH, Replicated, clusters, replicated

__all__ = ["clusters", "replicated"]

pytestmark = pytest.mark.parametrize("replicated", BOTH, indirect=True)

PAIRS = int(os.environ.get("PREFIQ_REPLICA_PAIRS", "132"))  # each way to write and to read, with and without patience
HELD_BACK_SECONDS = 2
#: however busy the machine is
LIMIT_SECONDS = max(120, PAIRS)
#: pairs that are under way at once: half of them wait for as long as the replicas are held back
WORKERS = 40 if PAIRS > 1000 else 22


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


async def _read_each_way(db: Any, number: int, port_sql: str) -> Any:
    """Read one row on a replica, each time in another way: what it holds, and the port of the server that says so."""
    select = f"select qty, ({port_sql}) as port from item where id = :id"
    given = {"id": number}

    async def in_transaction() -> Any:
        async with db.transaction(read_only=True, replica=True) as tx:
            return await tx.fetch_one(select, given)

    async def repeatably() -> Any:
        async with db.transaction(read_only=True, replica=True, isolation="REPEATABLE READ") as tx:
            return await tx.fetch_one(select, given)

    async def streamed() -> Any:
        async with db.using(replica=True).stream(select, given) as rows:
            return ([row async for row in rows] or [None])[0]

    async def batched() -> Any:
        return ((await db.using(replica=True).batch([(select, given)]))[0].rows or [None])[0]

    ways = [
        lambda: db.using(replica=True).fetch_one(select, given),
        lambda: db.using(replica=True, read_only=True).fetch_one(select, given),
        in_transaction,
        repeatably,
        streamed,
        batched,
    ]
    return await ways[number // 11 % len(ways)]()


# --- many pairs at once --------------------------------------------------------------------------


@dataclass
class Pairs:
    """Pairs of a write and a read, and who answered the reads.

    Half of them have little time to wait, so that the primary answers; the others wait until a replica has got it.

    Attributes:
        forgets: what was written is forgotten before it is read: the control.
        answered: the port of the server that answered, by its own word, for each pair; ``None``: no row was found.
    """

    replicated: Replicated
    harness: Harness
    hasty: Any
    patient: Any
    forgets: bool = False
    stale: list[int] = field(default_factory=list)
    answered: list[int | None] = field(default_factory=list)

    async def run(self, count: int) -> None:
        shares = [range(each, count, WORKERS) for each in range(WORKERS)]
        workers = [lambda share=share: self._work(share) for share in shares]
        await self.harness.together(*workers, patience_seconds=LIMIT_SECONDS)

    async def _work(self, numbers: range) -> None:
        for number in numbers:
            await self._pair(self.patient if number // 66 % 2 else self.hasty, number)

    async def _pair(self, db: Any, number: int) -> None:
        _forget(db)  # or it would wait for those before, and so show nothing
        async with db.override(tags={"pair": "a"}):
            await _write_each_way(db, number)
            if self.forgets:
                _forget(db)
            row = await _read_each_way(db, number, self.replicated.port_sql)
        self.answered.append(None if row is None else row[1])
        if row is None or row[0] != number:
            self.stale.append(number)

    @property
    def by_node(self) -> list[int]:
        """How many rows each server has given, the primary's first."""
        counted = Counter(self.answered)
        return [counted[port] for port in self.replicated.ports]

    def __str__(self) -> str:
        primary, *replicas = self.by_node
        return (
            f"{self.replicated.kind} {self.harness.world}: {len(self.answered)} pairs, {len(self.stale)} stale, "
            f"answered by the primary {primary}, by the replicas {replicas}"
        )


async def _held_back(replicated: Replicated, harness: Harness, **options: Any) -> Pairs:
    """Return pairs on a table that is there everywhere, with replicas that are held back from now on."""
    # On a busy machine a connection, a statement and a turn in the line take their time; none of it is tested here.
    patience = {"connect_timeout_seconds": 60, "pool_timeout_seconds": 60, "statement_timeout_seconds": 120}
    hasty, patient = (
        replicated.database(replica_wait_seconds=seconds, pool_size=WORKERS, recorded=False, **patience)
        for seconds in (0.02, 60)
    )
    await _make_table(hasty)
    replicated.cluster.catch_up()
    if replicated.kind == "postgresql":
        # A standby counts from when it last had everything, so one that is always behind soon ends, at once, whoever
        # reads what it has to remove.
        for node in replicated.cluster.replicas:
            node.execute("alter system set max_standby_streaming_delay = -1")
            node.execute("select pg_reload_conf()")
    replicated.hold_back(HELD_BACK_SECONDS)
    return Pairs(replicated, harness, hasty, patient, **options)


@pytest.mark.timeout(LIMIT_SECONDS)
async def test_each_write_is_seen_by_each_read(replicated: Replicated, harness: Harness) -> None:
    """With replicas held back: 0 stale reads, whether a replica answers or the primary."""
    pairs = await _held_back(replicated, harness)
    await pairs.run(PAIRS)
    print(pairs)
    assert pairs.stale == []
    primary, *replicas = pairs.by_node
    assert primary + sum(replicas) == PAIRS
    # How many each of them answers is a question of how busy the machine is.
    assert pairs.hasty.stats().replica_fallback_count > 0, "the replicas were not behind: this shows nothing"
    assert primary > 0
    assert sum(replicas) > 0, "a replica answers, when it has got what was written"


@pytest.mark.timeout(LIMIT_SECONDS)
async def test_without_marks_reads_are_stale(replicated: Replicated, harness: Harness) -> None:
    """The control: the same with what was written forgotten."""
    pairs = await _held_back(replicated, harness, forgets=True)
    count = max(PAIRS // 5, 132)
    await pairs.run(count)
    print("without marks:", pairs)
    # Not all: a busy machine may take longer for one than they are held back, as to connect for the first ones.
    assert pairs.stale


@pytest.mark.parametrize("way", range(6))
async def test_a_read_waits_and_falls_back_once(replicated: Replicated, way: int) -> None:
    """Whatever way it takes: one wait on a replica, and then the primary."""
    db = replicated.database(replica_wait_seconds=0.02)
    await _make_table(db)
    replicated.cluster.catch_up()
    replicated.hold_back(30)
    await db.execute("insert into item values (:id, :id)", {"id": 11 * way})
    row = await _read_each_way(db, 11 * way, replicated.port_sql)
    assert tuple(row) == (11 * way, replicated.ports[0])
    assert db.stats().replica_fallback_count == 1


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
    for wrong in (mark[:-1], mark + "0", mark.replace("-", "+"), "", "x", 7, b"1p", "1" + mark):
        with pytest.raises(UsageError, match="after") as caught:
            db.using(after=wrong)
        assert str(wrong) not in str(caught.value) or len(str(wrong)) < 3
    unknown = await replicated.database(replicas=[]).mark()
    name = replicated.name
    replicated.name = replicated.cluster.create_database()
    elsewhere = replicated.database()
    replicated.name = name
    for foreign in (mark, unknown):
        with pytest.raises(UsageError, match="another database"):
            elsewhere.using(after=foreign)


async def test_who_has_no_replicas_gives_a_mark_to_who_has(replicated: Replicated) -> None:
    """It costs the writer nothing, and the reader one question to the primary."""
    writer = replicated.database(replicas=[])
    reader = replicated.database(replica_wait_seconds=0.02)
    await _make_table(writer)
    replicated.cluster.catch_up()
    replicated.hold_back(HELD_BACK_SECONDS)
    await writer.execute("insert into item values (1, 1)")
    before = replicated.recorders[0].round_trips
    mark = await writer.mark()
    assert replicated.recorders[0].round_trips == before
    assert await reader.using(replica=True).fetch_value("select count(*) from item") == 0, "the control"
    assert await reader.using(replica=True, after=mark).fetch_value("select count(*) from item") == 1
    async with reader.using(after=mark).session(replica=True) as session:
        assert (await session.execute(sa.text("select count(*) from item"))).scalar() == 1
    replicated.hold_back(0)
    replicated.cluster.catch_up()
    caught_up = replicated.database()
    assert await caught_up.using(replica=True, after=mark).fetch_value(replicated.port_sql) in replicated.ports[1:]


@pytest.mark.parametrize("with_replicas", [True, False])
async def test_no_mark_holds_what_is_not_committed(replicated: Replicated, with_replicas: bool) -> None:
    """A mark from within a transaction would be of a moment before its COMMIT, and a read after it stale."""
    db = replicated.database(**({} if with_replicas else {"replicas": []}))
    await _make_table(db)
    marks: list[Any] = []

    async with db.transaction() as tx:
        await tx.execute("insert into item values (1, 1)")
        async with db.transaction():
            with pytest.raises(UsageError, match="isn't committed yet"):
                await db.mark()
        with pytest.raises(UsageError, match="isn't committed yet"):
            await db.using(replica=True).mark()
    marks.append(await db.mark())
    async with db.transaction(read_only=True) as tx:
        await tx.fetch_value("select count(*) from item")
        marks.append(await db.mark())
    assert marks[0] == marks[1]


async def test_a_mark_of_an_older_timeline_is_never_stale(replicated: Replicated, monkeypatch: Any) -> None:
    """Nor one of the future: whoever can't have it is not asked, nor waited for, as after a failover."""
    pauses: list[float] = []
    pause = ScopeGate.pause
    monkeypatch.setattr(ScopeGate, "pause", lambda self, seconds: (pauses.append(seconds), pause(self, seconds))[1])
    db = replicated.database(replica_wait_seconds=0.02)
    await _make_table(db)
    from prefiq_db.marks import Mark, mark_of

    kind = "p" if replicated.kind == "postgresql" else "m"
    ((domain, (branch, number)),) = mark_of(await db.mark(), kind, replicated.name).places.items()
    later = Mark(kind, {domain: (branch, number + 10**9)}).text(replicated.name)
    sql = replicated.port_sql
    assert await db.using(replica=True, after=later).fetch_value(sql) == replicated.ports[0]
    if kind == "p":
        assert pauses, "the control: of the same branch it may come"
        pauses.clear()
        branched = replicated.database(replica_wait_seconds=20)
        newer = Mark(kind, {domain: (branch + 1, number)}).text(replicated.name)
        assert await branched.using(replica=True, after=newer).fetch_value(sql) == replicated.ports[0]
        assert pauses == []


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
