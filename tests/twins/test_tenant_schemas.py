"""A tenant's schema on PostgreSQL: a statement in a transaction of its own is as good as one outside of any."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from prefiq_db.config import RetryPolicy
from prefiq_db.errors import OutcomeUnknownError, PrefiqDbError, ReadOnlyError
from prefiq_db.testing.faults import CutReply, CutRequest, FaultProxy, Message
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database
from tests.twins.support import kill_session
from tests.twins.tenancy import ADD, ITEM, SKUS, Tenants, prepare_main, two_tenants

pytestmark = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)
a = {"sku": "A", "qty": 1}
_PROMPT = RetryPolicy(attempts=3, wait_initial_seconds=0.001, wait_max_seconds=0.001)


@pytest.fixture
def tenants(
    backend: Backend, free_databases: dict[str, list[str]], db: Any, run: Callable[[Any], Any]
) -> Iterator[Tenants]:
    run(prepare_main(backend, db))
    with two_tenants(backend, "schema", free_databases) as made:
        yield made


@pytest.fixture
def sql(backend: Backend) -> Callable[[str], Any]:
    """Run one statement as the administrator."""
    database, server = urlsplit(backend.url).path.removeprefix("/"), backend.server
    assert server is not None
    return lambda text: server.execute(text, database)


@pytest.fixture
def distant(
    tenants: Tenants, backend: Backend, world: str, proxy: FaultProxy, run: Callable[[Any], Any]
) -> Iterator[Any]:
    """The same database, through the proxy."""
    db = make_database(world, proxy.url(backend.url), ssl_mode="disable", pool_size=2, retry=_PROMPT)
    run(db.open())
    yield db
    checked_out = db.stats().pool.checked_out
    run(db.close())
    assert not checked_out


def reads(message: Message) -> bool:
    return SKUS in message.sql


def adds(message: Message) -> bool:
    return "insert into item" in message.sql


@pytest.mark.parametrize("fault", [CutRequest(), CutReply()], ids=repr)
async def test_a_read_without_a_reply_is_repeated(
    distant: Any, tenants: Tenants, proxy: FaultProxy, fault: Any
) -> None:
    view = distant.using(**tenants.over(0))
    await view.execute(ADD, a)
    with proxy.fault(fault, on=reads, times=1) as plan:
        assert await view.fetch_all(SKUS) == [("A",)]
    assert plan.hits == 1


@pytest.mark.parametrize("fault", [CutRequest(), CutReply()], ids=repr)
async def test_a_write_without_a_reply_is_of_unknown_outcome(
    distant: Any, tenants: Tenants, proxy: FaultProxy, fault: Any
) -> None:
    """As outside of any transaction; and if its caller says that it may happen twice, it is repeated."""
    view = distant.using(**tenants.over(0))
    with proxy.fault(fault, on=adds, times=1), pytest.raises(OutcomeUnknownError):
        await view.execute(ADD, a)
    proxy.wait()
    add_again = f"{ADD} on conflict do nothing"
    with proxy.fault(fault, on=adds, times=1) as plan:
        await view.using(idempotent=True).execute(add_again, a)
    assert plan.hits == 1
    assert [await tenants.rows(distant, number) for number in (0, 1, None)] == [["A"], [], []]


async def test_a_lost_commit_with_a_token_is_resolved(distant: Any, tenants: Tenants, proxy: FaultProxy) -> None:
    """The table of tokens is that of the database; the one who asks has no schema."""
    async with distant.override(**tenants.over(0)):
        async with distant.transaction(exactly_once=True) as tx:
            await tx.execute("delete from item")
        with proxy.fault(CutReply(), on=adds, times=1):
            async with distant.transaction(exactly_once=True) as tx:
                await tx.execute(ADD, a, last=True)
    assert await tenants.rows(distant, 0) == ["A"]
    assert str(await distant.resolve_outcome(tx.token)) == "committed"
    assert await distant.fetch_value("select count(*) from public.prefiq_commit_token") >= 1


async def test_a_dead_connection_costs_no_call(backend: Backend, tenants: Tenants, make_db: Callable[..., Any]) -> None:
    db = make_db(pool_size=1, max_overflow=0)
    view = db.using(**tenants.over(0))
    kill_session(backend, await view.fetch_value("select pg_backend_pid()"))
    await view.execute(ADD, a)
    kill_session(backend, await view.fetch_value("select pg_backend_pid()"))
    assert await view.fetch_all(SKUS) == [("A",)]


async def test_a_view_that_writes_is_run_as_a_write(tenants: Tenants, db: Any, sql: Callable[[str], Any]) -> None:
    """It looks like a read, and the read-only transaction refuses it: nothing was done, so it runs again."""
    sql("create function acme.note() returns integer volatile language sql as "
        "$$ insert into acme.item values ('N', 7) returning qty $$")  # fmt: skip
    sql("create view acme.noted as select acme.note() as n")
    view = db.using(**tenants.over(0))
    assert await view.fetch_value("select n from noted") == 7
    assert await tenants.rows(db, 0) == ["N"]
    with pytest.raises(ReadOnlyError):
        await view.using(read_only=True).fetch_value("select n from noted")


async def test_tenants_may_differ_in_their_columns(
    tenants: Tenants, make_db: Callable[..., Any], sql: Callable[[str], Any]
) -> None:
    """One connection and its prepared statements serve both; so does what is remembered of a table's columns."""
    sql("alter table globex.item add column note varchar(20) default 'new'")
    db = make_db(pool_size=1, max_overflow=0)
    views = [db.using(**tenants.over(number)) for number in (0, 1)]
    for view in views:
        await view.bulk_insert("item", [a])
        await view.upsert("item", [{"sku": "U", "qty": 2}], key=["sku"])
    await views[1].bulk_insert("item", [{"sku": "B", "qty": 2, "note": "old"}])
    with pytest.raises(PrefiqDbError, match="note"):
        await views[0].bulk_insert("item", [{"sku": "B", "qty": 2, "note": "old"}])
    for _ in range(8):  # psycopg prepares at the fifth time
        rows = [await view.fetch_one("select * from item where sku = :sku", {"sku": "A"}) for view in views]
        assert [tuple(row) for row in rows] == [("A", 1), ("A", 1, "new")]
        await views[0].execute(ITEM.update().values(qty=1))
        await views[1].execute(ITEM.update().values(qty=1))


async def test_the_plan_of_a_slow_read_is_the_tenants(
    tenants: Tenants, make_db: Callable[..., Any], caplog: pytest.LogCaptureFixture, sql: Callable[[str], Any]
) -> None:
    """The table exists in the tenant's schema alone, so a plan from anywhere else would be an error."""
    sql("create table acme.own (id integer primary key)")
    db = make_db(explain_slow_queries=True, slow_query_seconds=0.0000001)
    caplog.set_level(logging.INFO, logger="prefiq_db.slow")
    await db.using(**tenants.over(0)).fetch_all("select id from own where id = 987654")
    (plan,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("plan of")]
    assert "own" in plan
    assert "98765" not in plan


async def test_a_search_path_of_ones_own_ends_with_the_transaction(
    tenants: Tenants, make_db: Callable[..., Any]
) -> None:
    """Who changes it in a transaction gets what he asked for, and the next user of the connection doesn't."""
    db = make_db(pool_size=1, max_overflow=0)
    usual = await db.fetch_value("select current_setting('search_path')")
    async with db.using(**tenants.over(0)).transaction() as tx:
        await tx.execute("set search_path to globex")
    assert await db.fetch_value("select current_setting('search_path')") == usual


async def test_many_writers_of_two_tenants_share_two_connections(
    tenants: Tenants, harness: Harness, make_db: Callable[..., Any]
) -> None:
    db = make_db(pool_size=2, max_overflow=0, pool_timeout_seconds=30)

    def worker(number: int) -> Callable[[], Any]:
        async def work() -> None:
            view = db.using(**tenants.over(number % 2))
            for turn in range(10):
                await view.execute(ADD, {"sku": f"{number}-{turn}", "qty": turn})
                assert all(int(sku[0]) % 2 == number % 2 for (sku,) in await view.fetch_all(SKUS))

        return work

    await harness.together(*map(worker, range(6)))
    assert [len(await tenants.rows(db, number)) for number in (0, 1, None)] == [30, 30, 0]
    assert db.stats().pool.opened_count <= 2
