"""``schema`` and ``database``: what runs under an override is the tenant's, and nobody else's."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from prefiq_db.errors import (
    ClosedError,
    NestingError,
    PrefiqDbError,
    SchemaError,
    UniqueViolationError,
    UnsupportedError,
    UsageError,
)
from prefiq_db.testing.wire import WireCounter
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database
from tests.twins.tenancy import ADD, ITEM, SKUS, Tenants, prepare_main, two_tenants
from tests.twins.test_round_trips import SlowCommits

KINDS = pytest.mark.parametrize("kind", ["schema", "database"])
on_postgresql = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)
on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
on_sqlite = pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)
a, b = {"sku": "A", "qty": 1}, {"sku": "B", "qty": 2}


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    sku: Mapped[str] = mapped_column(primary_key=True)
    qty: Mapped[int]


@pytest.fixture(params=["schema", "database"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tenants(
    backend: Backend, kind: str, free_databases: dict[str, list[str]], db: Any, run: Callable[[Any], Any]
) -> Iterator[Tenants]:
    run(prepare_main(backend, db))
    with two_tenants(backend, kind, free_databases) as made:
        yield made


# --- every verb ----------------------------------------------------------------------------------


async def _one_shot(db: Any) -> None:
    await db.execute(ADD, a)


async def _core(db: Any) -> None:
    await db.execute(ITEM.insert().values(a))


async def _many(db: Any) -> None:
    await db.execute_many(ADD, [a])


async def _batch(db: Any) -> None:
    await db.batch([(ADD, a), (ITEM.update().values(qty=5)), "select 1"])


async def _bulk(db: Any) -> None:
    await db.bulk_insert("item", [a])


async def _bulk_core(db: Any) -> None:
    await db.bulk_insert(ITEM, [a])


async def _upsert(db: Any) -> None:
    assert (await db.upsert("item", [a], key=["sku"], returning=["sku"])).rows[0].sku == "A"


async def _upsert_core(db: Any) -> None:
    await db.upsert(ITEM, [a], key=["sku"])


async def _transaction(db: Any) -> None:
    async with db.transaction() as tx:
        await tx.execute(ADD, a)
        assert await db.fetch_value(SKUS) == "A"


async def _durable(db: Any) -> None:
    async with db.transaction(durable=True, isolation="SERIALIZABLE", timeout=20):
        await db.execute(ADD, a)


async def _last(db: Any) -> None:
    async with db.transaction() as tx:
        await tx.fetch_value(SKUS)
        await tx.execute(ADD, a, last=True)


async def _exactly_once(db: Any) -> None:
    for _ in range(2):  # the second time the token travels
        async with db.transaction(exactly_once=True) as tx:
            await tx.execute("delete from item")
            await tx.execute(ADD, a)
        assert str(await db.resolve_outcome(tx.token)) == "committed"


async def _exactly_once_batch(db: Any) -> None:
    await db.batch([(ADD, a), "select 1"], exactly_once=True)


async def _in_transaction(db: Any) -> None:
    async def body(tx: Any) -> None:
        await tx.execute(ADD, a)

    await db.run_in_transaction(body)


async def _attempts(db: Any) -> None:
    async for attempt in db.attempts():
        async with attempt as tx:
            await tx.execute(ADD, a)


async def _session(db: Any) -> None:
    async with db.session() as session:
        session.add(Item(sku="A", qty=1))
        await session.commit()
        assert (await session.scalars(sa.select(Item.sku))).all() == ["A"]


async def _session_in_transaction(db: Any) -> None:
    async with db.transaction(), db.session() as session:
        session.add(Item(sku="A", qty=1))
        await session.commit()


async def _savepoints(db: Any) -> None:
    async with db.transaction() as tx:
        async with tx.transaction() as inner:
            await inner.execute(ADD, a)
        async with db.transaction():
            await db.fetch_all(SKUS)


WRITES = [
    _one_shot, _core, _many, _batch, _bulk, _bulk_core, _upsert, _upsert_core, _transaction, _durable, _last,
    _exactly_once, _exactly_once_batch, _in_transaction, _attempts, _session, _session_in_transaction, _savepoints,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__.strip("_"))
async def test_every_verb_writes_for_its_tenant_alone(db: Any, tenants: Tenants, write: Callable[[Any], Any]) -> None:
    """By a view and by a scope, and neither the other tenant nor the database of the settings sees a row of it."""
    await write(db.using(**tenants.over(0)))
    assert [await tenants.rows(db, number) for number in (0, 1, None)] == [["A"], [], []]
    async with db.override(**tenants.over(1)):
        await write(db)
        await db.execute("delete from item where sku = 'nobody'")
    assert [await tenants.rows(db, number) for number in (0, 1, None)] == [["A"], ["A"], []]
    # the control: without an override the same verb writes elsewhere
    await write(db)
    assert await tenants.rows(db, None) == ["A"]


async def test_every_read_reads_its_tenant(db: Any, tenants: Tenants) -> None:
    view = db.using(**tenants.over(0))
    await view.execute_many(ADD, [a, b])
    assert await view.fetch_one("select qty from item where sku = :sku", {"sku": "B"}) == (2,)
    assert await view.fetch_all(sa.select(ITEM.c.sku).order_by(ITEM.c.sku), into=dict) == [{"sku": "A"}, {"sku": "B"}]
    async with view.stream(SKUS, batch_size=1) as rows:
        assert [row.sku async for row in rows] == ["A", "B"]
    async with db.override(**tenants.over(1)), db.stream(SKUS) as rows:
        assert [row.sku async for row in rows] == []
    assert [row.n for row in (await view.batch(["select count(*) as n from item"]))[0].rows] == [2]


async def test_a_failure_under_a_tenant_leaves_nothing_behind(
    backend: Backend, tenants: Tenants, make_db: Callable[..., Any]
) -> None:
    """One connection serves all in turn; after an error, a rollback and an aborted batch it is as it was."""
    db = make_db(pool_size=1, max_overflow=0)
    for number in (0, 1, 0):
        view = db.using(**tenants.over(number))
        await view.execute("delete from item")
        await view.execute(ADD, a)
        with pytest.raises(UniqueViolationError):
            await view.execute(ADD, a)
        with pytest.raises(UniqueViolationError):
            await view.batch([(ADD, b), (ADD, a)])
        with pytest.raises(SchemaError):
            await view.fetch_all("select * from nowhere")
        with pytest.raises(ZeroDivisionError):
            async with view.transaction() as tx:
                await tx.execute(ADD, b)
                raise ZeroDivisionError
        assert await tenants.rows(db, number) == ["A"]
        assert await tenants.rows(db, None) == []


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "a.b", "../a", "a-b", 'a"b', "1a", "ä", "a" * 64, 3, b"a", "a\n", "a;b"])
@KINDS
async def test_a_name_that_is_no_identifier_is_refused(db: Any, kind: str, name: Any) -> None:
    """At once, naming the field and not the value."""
    for refused in (lambda: db.using(**{kind: name}), lambda: db.override(**{kind: name})):
        with pytest.raises(UsageError, match=f"override {kind}: expected an identifier") as caught:
            refused()
        assert str(name) == "" or len(str(name)) < 2 or str(name) not in str(caught.value)


@pytest.mark.parametrize("name", ["pg_catalog", "PG_TOAST", "information_schema", "mysql", "performance_schema", "sys"])
@KINDS
async def test_a_name_of_the_servers_own_is_refused(db: Any, kind: str, name: str) -> None:
    with pytest.raises(UsageError, match="of the server's own"):
        db.using(**{kind: name})


async def test_a_tenant_that_does_not_exist_is_an_error(
    backend: Backend, db: Any, tenants: Tenants, tmp_path: Any
) -> None:
    """And on SQLite no file is made for it."""
    with pytest.raises(PrefiqDbError) as caught:
        await db.using(**{tenants.kind: "nobody_here"}).execute(ADD, a)
    assert "'A'" not in str(caught.value)
    assert not list(tmp_path.glob("nobody*"))


@on_sqlite
async def test_a_database_in_memory_has_no_tenants(world: str, backend: Backend, kind: str) -> None:
    with pytest.raises(UnsupportedError, match="in memory"):
        make_database(world, "sqlite://").using(**{kind: "acme"})


async def test_schema_and_database_contradict_where_they_are_the_same(backend: Backend, db: Any) -> None:
    if backend.name == "postgresql":
        assert db.using(schema="a", database="b") is not None
        return
    with pytest.raises(UsageError, match="give one"):
        db.using(schema="a", database="b")
    async with db.override(schema="a"):
        with pytest.raises(UsageError, match="give one"):
            await db.using(database="b").fetch_value("select 1")


# --- which one is in force -----------------------------------------------------------------------


async def test_a_view_wins_over_a_scope_and_the_inner_scope_over_the_outer(db: Any, tenants: Tenants) -> None:
    async with db.override(**tenants.over(0)):
        await db.execute(ADD, a)
        async with db.override(**tenants.over(1)):
            await db.execute(ADD, b)
            assert await tenants.rows(db, 0) == ["A"]
        async with db.override(timeout=20):
            assert [sku for (sku,) in await db.fetch_all(SKUS)] == ["A"]
    assert await tenants.rows(db, 1) == ["B"]


async def test_children_inherit_it_unless_it_says_otherwise(
    db: Any, tenants: Tenants, world: str, run: Callable[[Any], Any]
) -> None:
    """Tasks, and threads with a copy of the context; ``inherit=False`` keeps it to who has entered it."""

    async def child() -> list[str]:
        return [sku for (sku,) in await db.fetch_all(SKUS)]

    async def in_child() -> list[str]:
        if world == "async":
            return await asyncio.create_task(child())
        found: list[list[str]] = []
        context = contextvars.copy_context()
        import threading

        thread = threading.Thread(target=lambda: found.append(context.run(run, child())))
        thread.start()
        thread.join()
        return found[0]

    await db.using(**tenants.over(0)).execute(ADD, a)
    async with db.override(**tenants.over(0)):
        assert await in_child() == ["A"]
        async with db.override(**tenants.over(1), inherit=False):
            assert await child() == []
            await db.execute(ADD, b)
            assert await in_child() == ["A"]
        assert await child() == ["A"]
    assert await child() == []
    assert await tenants.rows(db, 1) == ["B"]


async def test_inherit_is_checked(db: Any) -> None:
    with pytest.raises(UsageError, match="inherit: expected True or False"):
        db.override(timeout=1, inherit="no")


# --- transactions --------------------------------------------------------------------------------


async def test_another_tenants_verb_in_an_open_transaction_is_refused(db: Any, tenants: Tenants) -> None:
    """Whichever way it is called, nothing is sent, and the transaction goes on."""
    first, second = db.using(**tenants.over(0)), db.using(**tenants.over(1))
    async with first.transaction() as tx:
        await tx.execute(ADD, a)
        for write in WRITES:
            with pytest.raises((NestingError, UsageError)):
                await write(second)
            with pytest.raises((NestingError, UsageError)):
                await write(db)
        await first.execute(ADD, b)
    assert [await tenants.rows(db, number) for number in (0, 1, None)] == [["A", "B"], [], []]


async def test_the_verbs_of_tx_are_refused_under_another_tenant(db: Any, tenants: Tenants) -> None:
    async with db.override(**tenants.over(0)), db.transaction() as tx:
        await tx.execute(ADD, a)
        async with db.override(**tenants.over(1)):
            for refused in (
                lambda: tx.execute(ADD, b),
                lambda: tx.fetch_all(SKUS),
                lambda: tx.execute_many(ADD, [b]),
                lambda: tx.batch([(ADD, b)]),
                lambda: tx.bulk_insert("item", [b]),
                lambda: tx.upsert("item", [b], key=["sku"]),
                lambda: db.execute(ADD, b),
            ):
                with pytest.raises(NestingError):
                    await refused()
            with pytest.raises(NestingError):
                async with tx.stream(SKUS):
                    pass
            with pytest.raises(NestingError):
                async with db.stream(SKUS):
                    pass
            with pytest.raises(NestingError):
                db.session()
        await db.execute(ADD, b)
    assert [await tenants.rows(db, number) for number in (0, 1, None)] == [["A", "B"], [], []]


async def test_a_tenants_verb_in_a_transaction_of_none_is_refused(db: Any, tenants: Tenants) -> None:
    async with db.transaction() as tx:
        await tx.execute(ADD, a)
        with pytest.raises(NestingError):
            await db.using(**tenants.over(0)).execute(ADD, b)
        async with db.override(**tenants.over(0)):
            with pytest.raises(NestingError):
                await tx.execute(ADD, b)
            with pytest.raises(NestingError):
                async with db.transaction():
                    pass
    assert [await tenants.rows(db, number) for number in (0, 1, None)] == [[], [], ["A"]]


async def test_a_transaction_keeps_the_tenant_that_it_began_with(db: Any, tenants: Tenants) -> None:
    """Its ``tx`` works where no override is in force, and so does a loop of attempts."""
    async with db.override(**tenants.over(0)):
        tx = db.transaction()
        attempts = db.attempts()
    async with tx:
        await tx.execute(ADD, a)
        with tx.bind():
            await db.using(**tenants.over(0)).fetch_all(SKUS)
    async for attempt in attempts:
        async with attempt as again:
            await again.execute(ADD, b)
    assert [await tenants.rows(db, number) for number in (0, 1, None)] == [["A", "B"], [], []]


async def test_tasks_of_several_tenants_never_see_each_others_rows(
    tenants: Tenants, harness: Harness, make_db: Callable[..., Any]
) -> None:
    db = make_db(pool_size=2, max_overflow=0)

    def worker(number: int) -> Callable[[], Any]:
        async def work() -> None:
            for turn in range(15):
                async with db.override(**tenants.over(number)):
                    await db.execute(ADD, {"sku": f"{number}-{turn}", "qty": turn})
                    async with db.transaction() as tx:
                        await tx.execute("update item set qty = qty + 1")
                        seen = await db.fetch_all(SKUS)
                    assert all(sku.startswith(f"{number}-") for (sku,) in seen)

        return work

    await harness.together(worker(0), worker(1))
    for number in (0, 1):
        assert await tenants.rows(db, number) == sorted(f"{number}-{turn}" for turn in range(15))


# --- engine and session --------------------------------------------------------------------------


async def test_engine_is_the_tenants_database_or_refused(db: Any, tenants: Tenants) -> None:
    view = db.using(**tenants.over(0))
    if tenants.is_namespace:
        with pytest.raises(UnsupportedError, match="engine under a schema"):
            _ = view.engine
        return
    assert view.engine is not db.engine
    assert view.engine.url.database.endswith((tenants.names[0], f"{tenants.names[0]}.db"))


@on_postgresql
@pytest.mark.parametrize("kind", ["schema"])
async def test_a_session_in_autocommit_has_no_schema(db: Any, tenants: Tenants) -> None:
    async with db.using(**tenants.over(0)).session() as session:
        with pytest.raises(UnsupportedError, match="AUTOCOMMIT"):
            await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            await session.execute(sa.text(SKUS))


# --- what it costs -------------------------------------------------------------------------------


@on_servers
async def test_it_costs_one_round_trip_per_statement(world: str, backend: Backend, tenants: Tenants) -> None:
    """The choice of the schema, BEGIN and COMMIT travel with the statement."""
    assert backend.server is not None
    with WireCounter(backend.server.host, backend.server.port) as wire:
        db = make_database(world, wire.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0)
        view = db.using(**tenants.over(0))
        await view.upsert(ITEM, [b], key=["sku"])  # connects, and learns of the table
        writes: list[Callable[[], Any]] = [
            lambda: view.execute(ADD, a),
            lambda: view.execute(ITEM.update().values(qty=7)),
            lambda: view.batch([("delete from item where sku = 'B'"), (ADD, b), "select 1"]),
            lambda: view.upsert(ITEM, [a], key=["sku"]),
        ]
        costs = []
        for write in writes:
            with wire.count() as count:
                await write()
            costs.append(count.round_trips)
        with wire.count() as transaction:
            async with view.transaction() as tx:
                await tx.execute("update item set qty = 8")
                await tx.execute("update item set qty = 9", last=True)
        await db.close()
    assert costs == [1, 1, 1, 1]
    assert transaction.round_trips == 2


@on_postgresql
@pytest.mark.parametrize("kind", ["schema"])
async def test_nobody_waits_for_the_commit_of_a_read(world: str, backend: Backend, tenants: Tenants) -> None:
    """Its reply is held back until the next statement is sent."""
    assert backend.server is not None
    with SlowCommits(backend.server.host, backend.server.port) as wire:
        db = make_database(world, wire.url(backend.url), ssl_mode="disable", pool_size=1, max_overflow=0)
        view = db.using(**tenants.over(0))
        await view.fetch_all(SKUS)
        with wire.count() as count:
            await view.fetch_all(SKUS)
            await view.fetch_one(sa.select(ITEM.c.sku))
            await db.using(**tenants.over(1)).fetch_all(SKUS)
        await db.close()
    assert count.round_trips == 3


@on_postgresql
@pytest.mark.parametrize("kind", ["database"])
async def test_a_schema_in_a_tenants_database(backend: Backend, db: Any, tenants: Tenants) -> None:
    """Both overrides at once: another database, and in it another namespace."""
    assert backend.server is not None
    for statement in ("create schema branch", "create table branch.item (like public.item)"):
        backend.server.execute(statement, tenants.names[0])
    try:
        async with db.override(**tenants.over(0)):
            await db.using(schema="branch").execute(ADD, a)
            async with db.override(schema="branch"), db.transaction(exactly_once=True) as tx:
                await tx.execute(ADD, b)
            assert [sku for (sku,) in await db.fetch_all("select sku from branch.item")] == ["A", "B"]
            assert await db.fetch_all(SKUS) == []
        assert await tenants.rows(db, None) == []
    finally:
        backend.server.execute("drop schema branch cascade", tenants.names[0])


async def test_a_cancelled_or_failed_scope_is_over(db: Any, tenants: Tenants) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.override(**tenants.over(0)):
            raise ZeroDivisionError
    await db.execute(ADD, a)
    assert [await tenants.rows(db, number) for number in (0, 1, None)] == [[], [], ["A"]]


# --- pools of tenants ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["database"])
async def test_pools_of_tenants_are_few_and_closed_with_the_database(
    tenants: Tenants, make_db: Callable[..., Any]
) -> None:
    """With room for one, the other tenant takes its place; a busy one keeps it, and the other isn't kept."""
    db = make_db(tenant_pools=1)
    first, second = db.using(**tenants.over(0)), db.using(**tenants.over(1))

    def kept() -> dict[str, int]:
        return {name: pool.idle + pool.checked_out for name, pool in db.stats().tenant_pools.items()}

    await first.execute(ADD, a)
    assert kept() == {tenants.names[0]: 1}
    await second.execute(ADD, a)
    assert kept() == {tenants.names[1]: 1}
    await first.execute(ADD, b)
    async with first.stream(SKUS, batch_size=1) as rows:
        await second.execute(ADD, b)  # on a connection that is closed after it
        assert set(kept()) == {tenants.names[0]}
        assert [row.sku async for row in rows] == ["A", "B"]
    assert await tenants.rows(db, 1) == ["A", "B"]
    await db.close()
    assert kept() == {}
    with pytest.raises(ClosedError):
        await first.fetch_all(SKUS)
    await db.open()
    assert await tenants.rows(db, 0) == ["A", "B"]


@pytest.mark.parametrize("kind", ["database"])
async def test_a_transaction_is_found_again_when_its_pool_has_lost_its_place(
    tenants: Tenants, make_db: Callable[..., Any]
) -> None:
    """Another tenant may come between the call of ``transaction()`` and its connection."""
    db = make_db(tenant_pools=1)
    async with db.override(**tenants.over(0)):
        tx = db.transaction()
        await db.using(**tenants.over(1)).execute(ADD, b)
        async with tx:
            await db.execute(ADD, a)
            async with db.transaction():
                await db.execute("update item set qty = 9")
    assert [await tenants.rows(db, number) for number in (0, 1, None)] == [["A"], ["B"], []]
    assert len(db.stats().tenant_pools) == 1


@pytest.mark.parametrize("kind", ["database"])
async def test_stats_tell_of_all_tenants(db: Any, tenants: Tenants) -> None:
    before = db.stats().statement_count
    async with db.using(**tenants.over(0)).transaction() as tx:
        await tx.execute(ADD, a)
        stats = db.stats()
        assert len(stats.holders) == 1
        assert stats.tenant_pools[tenants.names[0]].checked_out == 1
        assert stats.pool.checked_out == 0
    assert db.stats().statement_count == before + 1
    assert (await db.using(**tenants.over(1)).health()).healthy
    assert await db.using(**tenants.over(1)).test_connection()
