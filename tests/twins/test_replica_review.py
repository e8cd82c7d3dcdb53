"""What a cold look at replicas found: writes that left no mark, and nodes that nobody saw fall behind."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.util import greenlet_spawn

from prefiq_db.errors import UsageError
from prefiq_db.marks import Mark, seen_by
from tests.twins.replicated import BOTH, Replicated, clusters, replicated

__all__ = ["clusters", "replicated"]

pytestmark = pytest.mark.parametrize("replicated", BOTH, indirect=True)

COUNT = "select count(*) from item"


async def _held_back(replicated: Replicated, **fields: Any) -> Any:
    """Return a database whose replicas have its empty table, and get nothing else for two seconds."""
    db = replicated.database(replica_wait_seconds=0.02, **fields)
    async with db.override(tags={"made": "here"}):
        await db.execute("create table item (id integer primary key, qty integer not null)")
    replicated.cluster.catch_up()
    replicated.hold_back(2)
    await db.mark()  # settles how far the table went, or each read below would ask
    return db


async def _on_engine(db: Any, *statements: str, **options: Any) -> None:
    if db.is_async:
        async with db.engine.connect() as connection:
            await connection.execution_options(**options)
            for each in statements:
                await connection.execute(sa.text(each))
            await connection.commit()
        return
    with db.engine.connect() as connection:
        connection.execution_options(**options)
        for each in statements:
            connection.execute(sa.text(each))
        connection.commit()


async def _raw(db: Any) -> None:
    def work() -> None:
        raw = (db.engine.sync_engine if db.is_async else db.engine).raw_connection()
        try:
            raw.cursor().execute("insert into item values (1, 1)")
            raw.commit()
        finally:
            raw.close()

    if db.is_async:
        await greenlet_spawn(work)
    else:
        work()


WAYS = {
    "raw": _raw,
    "engine": lambda db: _on_engine(db, "insert into item values (1, 1)"),
    "engine, autocommit": lambda db: _on_engine(db, "insert into item values (1, 1)", isolation_level="AUTOCOMMIT"),
    "engine, ddl": lambda db: _on_engine(
        db, "insert into item values (1, 1)", "create table other (id integer primary key)"
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_writes_leaves_a_mark(replicated: Replicated, way: str) -> None:
    db = await _held_back(replicated)
    async with db.override(tags={"scope": "a"}):
        await WAYS[way](db)
        assert await db.using(replica=True).fetch_value(COUNT) == 1


async def test_a_token_of_somebody_else_is_refused(replicated: Replicated) -> None:
    """Whoever knows the form can make one: no number in it may reach a server that has no room for it."""
    db = replicated.database(replica_wait_seconds=0.02)
    kind = "p" if replicated.kind == "postgresql" else "m"
    far = {
        "domain": {2**32: (1, 1)},
        "branch": {0: (2**32, 1)},
        "number": {0: (1, 2**64)},
        "none": {0: (1, 10**20)},
    }
    if kind == "p":
        far["other"] = {5: (1, 100)}
        far["two"] = {0: (1, 100), 1: (1, 100)}
    for name, places in far.items():
        token = Mark(kind, places).text(replicated.name)
        with pytest.raises(UsageError, match="after") as caught:
            await db.using(replica=True, after=token).fetch_value("select 1")
            pytest.fail(name)
        assert token not in str(caught.value)


async def test_a_scope_within_another_sees_what_that_one_wrote(replicated: Replicated) -> None:
    """Also what is written there by a task that was started before the inner scope."""
    db = await _held_back(replicated)
    if not db.is_async:
        pytest.skip("a task that runs beside the scope")
    may_write = asyncio.Event()

    async def write() -> None:
        await may_write.wait()
        await db.execute("insert into item values (1, 1)")

    async with db.override(tags={"scope": "request"}):
        task = asyncio.create_task(write())
        await asyncio.sleep(0)
        async with db.override(tags={"scope": "inner"}):
            may_write.set()
            await task
            assert await db.using(replica=True).fetch_value(COUNT) == 1


async def test_a_raw_connection_may_write_until_it_is_returned(replicated: Replicated) -> None:
    """What it commits between two reads, nobody tells: each of them asks."""
    db = await _held_back(replicated)

    def write(raw: Any, number: int) -> None:
        raw.cursor().execute(f"insert into item values ({number}, 1)")
        raw.commit()

    async def apart(work: Any, *given: Any) -> Any:
        return await greenlet_spawn(work, *given) if db.is_async else work(*given)

    async with db.override(tags={"scope": "a"}):
        raw = await apart((db.engine.sync_engine if db.is_async else db.engine).raw_connection)
        try:
            for number in (1, 2):
                await apart(write, raw, number)
                assert await db.using(replica=True).fetch_value(COUNT) == number
            await apart(write, raw, 3)
        finally:
            await apart(raw.close)
        assert await db.using(replica=True).fetch_value(COUNT) == 3
        before = len(replicated.recorders[0].sent)
        await db.using(replica=True).fetch_value(COUNT)
        sent = replicated.recorders[0].sent[before:]
        assert b"wal_insert_lsn" not in sent, "asked again"
        assert b"gtid_binlog_pos" not in sent, "asked again"


async def test_what_is_written_while_the_primary_is_asked_is_seen(
    replicated: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer says nothing of what came after the question."""
    from prefiq_db.core.reading import ReadingView

    db = await _held_back(replicated)
    ask = ReadingView._ask_mark
    core = db._core if db.is_async else db._wrapped._core

    def ask_and_write(view: Any, deadline: Any) -> Any:
        mark = ask(view, deadline)
        if not done:
            done.append(1)
            # As another task of the scope does it, which waits for its reply here.
            with core.instance.engine.connect() as connection:
                connection.execute(sa.text("insert into item values (2, 2)"))
                connection.commit()
            _forget_marks(core)
            core.instance.engine.dialect.marker.note(None)
        return mark

    done: list[int] = []
    monkeypatch.setattr(ReadingView, "_ask_mark", ask_and_write)
    async with db.override(tags={"scope": "a"}):
        core.instance.engine.dialect.marker.note(None)
        assert await db.using(replica=True).fetch_value(COUNT) == 1


def _forget_marks(core: Any) -> None:
    """Forget the known places, and keep what isn't known."""
    for each in seen_by(core.runtime.worker())._all():
        each._marks.clear()


async def test_an_engine_asks_when_it_isnt_known_how_far_a_write_went(replicated: Replicated) -> None:
    """An engine or a session of a replica has no place to ask but the replica's own BEGIN."""
    from prefiq_db.errors import NotReadyError

    db = await _held_back(replicated)
    core = db._core if db.is_async else db._wrapped._core

    async def count() -> Any:
        engine = db.engine_for("r1")
        if db.is_async:
            async with engine.connect() as connection:
                return await connection.scalar(sa.text(COUNT))
        with engine.connect() as connection:
            return connection.scalar(sa.text(COUNT))

    async with db.override(tags={"scope": "a"}):
        await _on_engine(db, "insert into item values (1, 1)")
        _forget_marks(core)
        assert await count() == 0  # the control
        core.instance.engine.dialect.marker.note(None)
        with pytest.raises(Exception, match="did not get") as caught:
            await count()
        assert isinstance(caught.value, NotReadyError) or isinstance(caught.value.__cause__, NotReadyError)


async def test_who_asks_settles_it_for_those_around(replicated: Replicated) -> None:
    """A task that makes tables and starts others doesn't cost each of them a question."""
    db = await _held_back(replicated)
    if not db.is_async:
        pytest.skip("tasks that inherit a task's view")
    core, before = db._core, 0

    async def read() -> None:
        await db.using(replica=True).fetch_value(COUNT)

    async def work() -> None:
        nonlocal before
        core.instance.engine.dialect.marker.note(None)
        await asyncio.create_task(read())
        before = len(replicated.recorders[0].sent)
        await asyncio.create_task(read())

    await asyncio.create_task(work(), context=contextvars.Context())
    # The primary may answer the read itself; the question is what matters.
    sent = replicated.recorders[0].sent[before:]
    assert b"wal_insert_lsn" not in sent
    assert b"gtid_binlog_pos" not in sent


async def test_a_write_that_is_sent_again_is_asked_for_again(replicated: Replicated) -> None:
    """A change of its table makes a prepared statement outdated: the answer behind the first try is too early."""
    if replicated.kind != "postgresql":
        pytest.skip("prepared statements of PostgreSQL")
    db = await _held_back(replicated, pool_size=1, max_overflow=0)
    other = replicated.database(replicas=[])
    insert = "insert into item (id, qty) values (:id, 1) returning *"
    for number in range(12):
        await db.fetch_all(insert, {"id": number})
    replicated.hold_back(0)
    await other.execute("alter table item add extra integer")
    replicated.cluster.catch_up()
    await db.mark()
    replicated.hold_back(2)
    async with db.override(tags={"scope": "a"}):
        assert len((await db.fetch_all(insert, {"id": 100}))[0]) == 3
        assert await db.using(replica=True).fetch_value(COUNT) == 13


@pytest.mark.parametrize("before", ["batch", "raw", "transaction", "last"])
async def test_what_was_told_before_is_not_taken_for_the_answer(replicated: Replicated, before: str) -> None:
    """MariaDB tells nothing behind rows; what the connection was told of an earlier write must not stand for it."""
    db = await _held_back(replicated, pool_size=1, max_overflow=0)
    if before == "batch":
        await db.batch([("insert into item values (1, 1)", {}), ("insert into item values (2, 1)", {})])
    elif before == "raw":
        await _raw(db)
    else:
        async with db.transaction() as tx:
            await tx.execute("insert into item values (1, 1)", last=before == "last")
    await db.mark()
    replicated.hold_back(0)
    replicated.cluster.catch_up()
    replicated.hold_back(2)
    count = await db.fetch_value(COUNT)
    async with db.override(tags={"scope": "a"}):
        await db.fetch_all("insert into item (id, qty) values (9, 1) returning id")
        assert await db.using(replica=True).fetch_value(COUNT) == count + 1
