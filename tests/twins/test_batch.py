"""``batch()``: statements that don't need each other's results, all or nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any

import aiosqlite
import pytest
import sqlalchemy as sa

from prefiq_db import RetryPolicy
from prefiq_db.errors import (
    ErrorKind,
    LockTimeoutError,
    NestingError,
    PrefiqDbError,
    StatementTimeoutError,
    UniqueViolationError,
    UsageError,
)
from prefiq_db.events import CallFinished, Listener, StatementFinished, StatementStarted, TransactionFinished
from tests.conftest import Backend
from tests.twins.support import slow_read, upgrade_schema

METADATA = sa.MetaData()
ITEM = sa.Table(
    "item",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(40), nullable=False, unique=True),
    sa.Column("qty", sa.Integer, nullable=False),
)


async def _make_table(db: Any) -> None:
    await db.execute(sa.schema.CreateTable(ITEM))


async def test_a_batch_returns_what_execute_returns(db: Any) -> None:
    """Row counts, keys and rows, in the order of the statements."""
    await _make_table(db)
    results = await db.batch(
        [
            ("insert into item (sku, qty) values (:sku, :qty)", {"sku": "A", "qty": 1}),
            (sa.insert(ITEM), {"sku": "B", "qty": 2}),
            "update item set qty = qty + 1",
            (
                sa.select(ITEM.c.sku, ITEM.c.qty).where(ITEM.c.qty > sa.bindparam("least")).order_by(ITEM.c.sku),
                {"least": 0},
            ),
            "delete from item where sku = 'nobody'",
        ]
    )
    assert [each.rowcount for each in results] == [1, 1, 2, None, 0]
    assert [each.inserted_primary_key for each in results] == [None, (2,), None, None, None]
    assert [tuple(row) for row in results[3].rows] == [("A", 2), ("B", 3)]
    assert results[3].rows[0].sku == "A"


async def test_a_failed_batch_changes_nothing_and_names_the_statement(db: Any) -> None:
    await _make_table(db)
    with pytest.raises(UniqueViolationError, match=r"statements\[2\]") as caught:
        await db.batch(
            [
                ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"}),
                "update item set qty = 7",
                ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"}),
                "update item set qty = 8",
            ]
        )
    assert caught.value.statement_index == 2
    assert await db.fetch_value("select count(*) from item") == 0


async def test_what_is_no_batch_is_told(db: Any) -> None:
    assert await db.batch([]) == []
    with pytest.raises(UsageError, match="expected a list of statements"):
        await db.batch("select 1")
    for wrong in (3, ("select 1", {}, 2), ("select :a", {"b": 1}), ("select :a", [1])):
        with pytest.raises(UsageError, match=r"statements\[1\]") as caught:
            await db.batch(["select 1", wrong])
        assert caught.value.statement_index == 1


INJECTIONS = [
    "select 1; commit; end",
    "commit",
    "select 1 end; drop table item",
    "select 1 /* the rest",
    "select 'the rest",
    "select 1 end",
    "end",
    "begin not atomic commit; end",
    "select 1 -- ; commit",
    "select 1 # ; commit; end",
    "select 1 /*! ; commit */",
    "select 1\n;\ncommit\n;",
]


@pytest.mark.parametrize("text", INJECTIONS)
async def test_a_text_ends_where_its_statement_ends(db: Any, text: str) -> None:
    """No text reaches out of its place: the others are all done, or none, and nothing is committed half-way."""
    await _make_table(db)
    insert = "insert into item (sku, qty) values (:sku, 1)"
    with pytest.raises(PrefiqDbError) as caught:  # the last one can't succeed
        await db.batch([(insert, {"sku": "A"}), text, (insert, {"sku": "B"}), (insert, {"sku": "A"})])
    assert caught.value.statement_index in (1, 3)
    assert await db.fetch_value("select count(*) from item") == 0


async def test_values_never_become_sql(db: Any) -> None:
    await _make_table(db)
    values = ["x'; commit; end; --", "\\", "\\'; rollback; --", "%s %(a)s {}", "/* */ # --"]
    insert = "insert into item (sku, qty) values (:sku, 1)"
    await db.batch([(insert, {"sku": value}) for value in values])
    assert sorted(await db.fetch_all("select sku from item", into=lambda row: row[0])) == sorted(values)


# --- in a transaction ----------------------------------------------------------------------------


async def test_in_a_transaction_it_is_a_savepoint(db: Any) -> None:
    """A failed batch leaves what was done before, and the transaction goes on."""
    await _make_table(db)
    insert = "insert into item (sku, qty) values (:sku, 1)"
    async with db.transaction() as tx:
        await tx.batch([(insert, {"sku": "A"}), (insert, {"sku": "B"})])
        with pytest.raises(UniqueViolationError) as caught:
            await db.batch([(insert, {"sku": "C"}), (insert, {"sku": "A"})])
        assert caught.value.statement_index == 1
        results = await db.batch([(insert, {"sku": "D"}), "select count(*) from item"])
        assert results[1].rows[0][0] == 3
    with pytest.raises(KeyError):
        async with db.transaction() as tx:
            await tx.batch([(insert, {"sku": "E"})])
            raise KeyError
    assert await db.fetch_value("select count(*) from item") == 3


async def test_a_token_belongs_to_the_outermost_transaction(db: Any) -> None:
    async with db.transaction() as tx:
        with pytest.raises(NestingError, match="exactly_once"):
            await tx.batch(["select 1"], exactly_once=True)


async def test_read_only_holds_for_batches(db: Any) -> None:
    await _make_table(db)
    with pytest.raises(PrefiqDbError) as caught:
        await db.using(read_only=True).batch(["select 1", "update item set qty = 1"])
    assert caught.value.kind is ErrorKind.READ_ONLY
    assert caught.value.statement_index == 1
    assert await db.fetch_value("select 1") == 1


# --- what is told --------------------------------------------------------------------------------


class _Recorder(Listener):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def statement_started(self, event: StatementStarted) -> None:
        self.events.append(event)

    statement_finished = statement_failed = call_started = call_finished = transaction_finished = statement_started  # type: ignore[assignment]


async def test_each_statement_has_its_events(db: Any) -> None:
    """One call and one transaction; of each statement what was sent, with its own count of rows."""
    await _make_table(db)
    recorder = _Recorder()
    db.hooks.add(recorder)
    insert = ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"})
    await db.using(tags={"route": "/items"}).batch([insert, "update item set qty = 2"])
    with pytest.raises(UniqueViolationError):
        await db.batch(["update item set qty = 3", insert, "update item set qty = 4"])
    names = [type(event).__name__ for event in recorder.events]
    done = ["CallStarted", "StatementStarted", "StatementFinished", "StatementStarted", "StatementFinished"]
    failed = ["CallStarted", "StatementStarted", "StatementFinished", "StatementStarted", "StatementFailed"]
    ends = ["TransactionFinished", "CallFinished"]
    assert names == [*done, *ends, *failed, *ends]
    statements = [event for event in recorder.events if isinstance(event, StatementFinished)]
    assert [(event.operation, event.rows) for event in statements] == [("INSERT", 1), ("UPDATE", 1), ("UPDATE", 1)]
    assert all(event.duration_seconds > 0 for event in statements)
    ended = [event for event in recorder.events if isinstance(event, TransactionFinished)]
    assert [event.outcome for event in ended] == ["committed", "not committed"]
    calls = [event for event in recorder.events if isinstance(event, CallFinished)]
    assert [(event.verb, event.kind) for event in calls] == [("batch", None), ("batch", ErrorKind.UNIQUE)]
    assert {event.call_id for event in statements} == {event.call_id for event in calls}
    assert {event.transaction_id for event in statements} == {event.transaction_id for event in ended}
    assert statements[0].tags == {"route": "/items"}


async def test_a_listener_of_sqlalchemys_sees_each_statement(db: Any) -> None:
    """Where somebody listens on the engine, statements are sent one by one, as the listener wants them."""
    await _make_table(db)
    engine = getattr(db.engine, "sync_engine", db.engine)
    seen: list[str] = []

    def before(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> tuple[str, Any]:
        seen.append(statement)
        return statement.replace("= 1", "= 2"), parameters

    sa.event.listen(engine, "before_cursor_execute", before, retval=True)
    try:
        await db.batch(["insert into item (sku, qty) values ('A', 0)", "update item set qty = 1"])
    finally:
        sa.event.remove(engine, "before_cursor_execute", before)
    assert len(seen) == 2
    assert await db.fetch_value("select qty from item") == 2


async def test_a_default_that_asks_the_server_is_asked_in_the_transaction(db: Any) -> None:
    """SQLAlchemy sends a query of its own first; it sees what the statements before it did."""
    following = sa.text("(select coalesce(max(number), 0) + 1 from numbered)")
    numbered = sa.Table(
        "numbered",
        sa.MetaData(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False, default=sa.select(following)),
        sa.Column("name", sa.String(20)),
    )
    await db.execute(sa.schema.CreateTable(numbered))
    await db.batch([(sa.insert(numbered), {"name": "a"}), (sa.insert(numbered), {"name": "b"})])
    assert await db.fetch_all("select number from numbered order by name", into=lambda row: row[0]) == [1, 2]


async def test_no_value_leaves_with_an_error(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the message, nor in the frames, nor in what is logged."""
    await _make_table(db)
    canary = "canary8c1f"
    insert = ("insert into item (sku, qty) values (:sku, :qty)", {"sku": canary, "qty": 1})
    with caplog.at_level("DEBUG"), pytest.raises(UniqueViolationError) as caught:
        await db.batch([insert, insert])
    frames, trace = [], caught.value.__traceback__
    while trace is not None:
        if "prefiq_db" in trace.tb_frame.f_code.co_filename and "/tests/" not in trace.tb_frame.f_code.co_filename:
            frames.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    assert frames
    told = [str(caught.value), repr(caught.value), str(caught.value.__dict__), caplog.text, *frames]
    assert not [each for each in told if canary in each]


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
async def test_on_sqlite_the_clock_stops_a_batch(db: Any, backend: Backend) -> None:
    """The statement that takes too long is named, and nothing stays; also when the writer's lock isn't to be had."""
    await _make_table(db)
    insert = ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"})
    with pytest.raises(StatementTimeoutError) as caught:
        await db.using(timeout=0.2).batch([insert, slow_read(backend), "update item set qty = 2"])
    assert caught.value.statement_index == 1
    with sqlite3.connect(backend.url.removeprefix("sqlite:///"), isolation_level=None) as other:
        other.execute("begin immediate")
        with pytest.raises(LockTimeoutError) as locked:
            await db.using(timeout=0.1, retry=RetryPolicy(attempts=1)).batch([insert])
        other.execute("rollback")
    other.close()
    assert locked.value.statement_index is None
    assert await db.fetch_value("select count(*) from item") == 0


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True)
async def test_on_sqlite_a_cancelled_batch_is_stopped(db: Any, backend: Backend) -> None:
    await _make_table(db)
    insert = ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await db.batch([insert, slow_read(backend)])
    assert await db.fetch_value("select count(*) from item") == 0
    assert (await db.batch([insert]))[0].rowcount == 1


@pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
@pytest.mark.parametrize("world", [pytest.param("async", marks=getattr(pytest.mark, "async"))], indirect=True)
async def test_on_sqlite_a_batch_waits_once_for_the_drivers_thread(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await _make_table(db)
    hops: list[Any] = []
    execute = aiosqlite.Connection._execute

    async def counted(self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        hops.append(fn)
        return await execute(self, fn, *args, **kwargs)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    insert = ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"})
    await db.batch([insert, "select * from item", "update item set qty = 2"])
    assert len(hops) == 1
    with pytest.raises(UniqueViolationError):
        await db.batch(["update item set qty = 2", insert])
    assert len(hops) == 2


async def test_exactly_once_leaves_a_token(db: Any, backend: Backend) -> None:
    """One for each batch that was committed, with its own work; a failed one leaves none."""
    upgrade_schema(backend)
    await _make_table(db)
    insert = ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"})
    await db.batch([insert, "update item set qty = 2"], exactly_once=True)
    with pytest.raises(UniqueViolationError):
        await db.batch(["update item set qty = 3", insert], exactly_once=True)
    assert await db.fetch_all("select written_as from prefiq_commit_token", into=lambda row: row[0]) == ["work"]
    assert await db.fetch_value("select qty from item") == 2


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
@pytest.mark.parametrize("pgbouncer", [False, True])
async def test_each_batch_brings_its_limits(make_db: Callable[..., Any], pgbouncer: bool) -> None:
    """They travel with BEGIN; behind a pooler all of them, because a session keeps no settings there."""
    pooled = make_db(pgbouncer=pgbouncer, statement_timeout_seconds=7)
    limit, read = await pooled.batch(["select current_setting('statement_timeout')", ("select :n as n", {"n": 1})])
    assert limit.rows[0][0] == "7s"
    assert read.rows[0].n == 1
    (own,) = await pooled.using(timeout=3).batch(["select current_setting('statement_timeout')"])
    assert own.rows[0][0] == "3s"
    (again,) = await pooled.batch(["select current_setting('statement_timeout')"])
    assert again.rows[0][0] == "7s"
