"""What would take one tenant's work to another, or tell the wrong thing of it."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, Response
from litestar import Litestar, websocket
from litestar import WebSocket as LitestarSocket
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from prefiq_db import Database, bootstrap_async
from prefiq_db.errors import ClosedError, NestingError, OutcomeUnknownError, PrefiqDbError, UnsupportedError, UsageError
from prefiq_db.integrations import flask, litestar, starlette
from tests.conftest import Backend
from tests.twins.tenancy import ADD, SKUS, Tenants, prepare_main, two_tenants
from tests.twins.test_tenants import on_postgresql, on_servers, on_sqlite

a = {"sku": "A", "qty": 1}
WHERE = "select current_schemas(false)"


@pytest.fixture
def kind() -> str:
    return "schema"


@pytest.fixture
def tenants(
    backend: Backend, kind: str, free_databases: dict[str, list[str]], db: Any, run: Callable[[Any], Any]
) -> Iterator[Tenants]:
    run(prepare_main(backend, db))
    with two_tenants(backend, kind, free_databases) as made:
        yield made


# --- errors --------------------------------------------------------------------------------------


@on_sqlite
async def test_an_error_is_told_also_when_the_database_was_closed_meanwhile(
    backend: Backend, tenants: Tenants, make_db: Callable[..., Any]
) -> None:
    """It may say that the outcome is unknown: who gets ClosedError instead takes it for never done."""
    db = make_db()
    for view in (db, db.using(**tenants.over(0))):
        await db.open()

        async def body(tx: Any) -> None:
            await db.close()
            raise OutcomeUnknownError("the reply to COMMIT was lost")

        with pytest.raises(OutcomeUnknownError):
            await view.run_in_transaction(body)


# --- prepared statements -------------------------------------------------------------------------


@on_postgresql
async def test_a_prepared_statement_is_of_one_schema(
    backend: Backend, tenants: Tenants, make_db: Callable[..., Any]
) -> None:
    """Each tenant has a type of its own: what was planned for one can't run for the other."""
    db = make_db(pool_size=1, max_overflow=0)
    views = [db.using(**tenants.over(number)) for number in (0, 1)]
    for view in views:
        await view.execute("create type mood as enum ('fine', 'bad')")
        await view.execute("create table person (id integer primary key, mood mood not null)")
        await view.execute("insert into person values (1, 'fine')")
    read, one = "select mood from person where id = :id", {"id": 1}
    for _ in range(7):
        assert await views[0].fetch_value(read, one) == "fine"
    # the control: it is prepared by now
    assert await db.fetch_value("select count(*) from pg_prepared_statements where statement like 'select mood%'") == 1
    for view in (*reversed(views), *views):
        assert await view.fetch_value(read, one) == "fine"
        async with view.transaction() as tx:
            assert await tx.fetch_value(read, one) == "fine"
        async with view.session() as session:
            assert (await session.execute(sa.text(read), one)).scalar_one() == "fine"
    assert db.stats().error_count == 0


# --- SQLAlchemy's own ----------------------------------------------------------------------------


@on_postgresql
def test_a_connection_of_a_session_that_reconnects_keeps_its_schema(backend: Backend, tenants: Tenants) -> None:
    assert backend.server is not None
    asks = sa.text("select current_schemas(false), pg_backend_pid()")
    with Database(backend.url) as db, db.using(**tenants.over(0)).session() as session:
        connection = session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        schemas, pid = connection.execute(asks).one()
        backend.server.execute(f"select pg_terminate_backend({pid}, 5000)")
        with pytest.raises(PrefiqDbError):
            connection.execute(asks)
        connection.rollback()
        again, another = connection.execute(asks).one()
        assert connection.get_isolation_level() == "REPEATABLE READ"
        assert connection.scalar(sa.text("show transaction_isolation")) == "repeatable read"
    assert schemas == again == [tenants.names[0]]
    assert another != pid


@on_postgresql
def test_a_raw_connection_has_no_schema(backend: Backend, tenants: Tenants) -> None:
    with Database(backend.url) as db, db.using(**tenants.over(0)).session() as session:
        engine: Any = session.get_bind()
        with pytest.raises(UnsupportedError, match="raw_connection"):
            engine.raw_connection()
        with engine.connect() as connection:
            assert connection.scalar(sa.text(WHERE)) == [tenants.names[0]]


@pytest.mark.parametrize("kind", ["schema", "database"])
async def test_a_session_or_savepoint_of_tx_is_refused_under_another_tenant(db: Any, tenants: Tenants) -> None:
    async with db.override(**tenants.over(0)), db.transaction() as tx, db.override(**tenants.over(1)):
        with pytest.raises(NestingError):
            tx.session()
        with pytest.raises(NestingError):
            tx.transaction()
    async with db.override(**tenants.over(0)), db.transaction() as tx, tx.transaction() as inner:
        await inner.execute(ADD, a)
    assert await tenants.rows(db, 0) == ["A"]


# --- pools of tenants ----------------------------------------------------------------------------


@on_sqlite
async def test_a_tenant_that_lost_its_place_is_still_itself(tenants: Tenants, make_db: Callable[..., Any]) -> None:
    """What was made for it before, and begins or goes on later, is not another tenant's."""
    db = make_db(tenant_pools=1)

    async def lose() -> None:
        await db.using(**tenants.over(1)).fetch_all(SKUS)

    async with db.override(**tenants.over(0)):
        tx = db.transaction()
        await lose()
        async with tx:
            await db.execute(ADD, a)
        async for attempt in db.attempts():
            await lose()
            async with attempt:
                await db.execute("update item set qty = 2")
    await lose()
    assert await tenants.rows(db, 0) == ["A"]
    assert sum(pool.idle for pool in db.stats().tenant_pools.values()) == 1


@on_sqlite
def test_a_closed_database_makes_no_more_pools(backend: Backend, tenants: Tenants) -> None:
    """Also for a thread that looked just before whether it is closed, and for what a tenant without a place has."""
    db = Database(backend.url, pool_size=1, tenant_pools=1)
    first, second = (db.using(**tenants.over(number)) for number in (0, 1))
    with first.transaction() as tx:
        tx.fetch_all(SKUS)
        pools = db._base.instance.tenants
        waiting = second._core  # it has found the database, which has no place, and goes on after close()
    db.close()
    with pytest.raises(ClosedError):
        waiting.fetch_all(SKUS, None, None, None)
    late = pools.get(tenants.names[0])  # as close() ran between the look and this
    assert late.closed
    assert db.stats().tenant_pools == {}
    db.open()
    assert first.fetch_all(SKUS) == []
    db.close()


@on_sqlite
def test_tenants_without_a_place_leave_nothing_behind(backend: Backend, tenants: Tenants) -> None:
    """Neither the objects of their pools nor a gap in a count that must not fall."""
    first, second = Path(tenants.url(0).removeprefix("sqlite:///")), Path(tenants.url(1).removeprefix("sqlite:///"))
    with Database(backend.url, pool_size=1, tenant_pools=1, leak_after_seconds=0.05) as db:
        with db.using(**tenants.over(0)).transaction() as tx:
            tx.fetch_all(SKUS)
            while db.stats().leak_count == 0:
                threading.Event().wait(0.02)
        counted = db.stats().leak_count
        watched = []
        for number in range(5):
            name = f"another_{number}"
            shutil.copy(first, second.with_stem(name))
            db.using(database=name).fetch_all(SKUS)
            watched.append(weakref.ref(db._base.instance.tenants.get(name).watcher))
        gc.collect()
        assert [watcher() is None for watcher in watched] == [True] * 4 + [False]
        assert db.stats().leak_count >= counted


# --- requests ------------------------------------------------------------------------------------

FIRST = "select sku from item order by sku"


@pytest.fixture
def files(tmp_path: Path) -> str:
    """Return the URL of an SQLite file beside two tenants'; each has a row that tells whose it is."""
    for name in ("shop", "acme", "globex"):
        with Database(f"sqlite:///{tmp_path}/{name}.db", pool_size=1) as db:
            db.execute("create table item (sku varchar(20) primary key)")
            db.execute("insert into item (sku) values (:sku)", {"sku": name})
    return f"sqlite:///{tmp_path}/shop.db"


def told(connection: Any) -> dict[str, str]:
    return {"database": connection.headers["X-Tenant"]}


def test_a_body_that_flask_streams_is_its_tenants(files: str) -> None:
    """The server reads it when the application has returned, and closes it."""
    app = Flask(__name__)
    prefiq = flask.PrefiqDb(app, Database(files), tenant=told)
    closed: list[str] = []

    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            try:
                for row in prefiq.db.fetch_all(FIRST):
                    yield row.sku
                with prefiq.db.stream(FIRST) as rows:
                    yield from (f" {row.sku}" for row in rows)
            finally:
                closed.append(prefiq.db.fetch_value(FIRST))

        return Response(parts())

    client = app.test_client()
    assert client.get("/stream", headers={"X-Tenant": "acme"}).text == "acme acme"
    with client.get("/stream", headers={"X-Tenant": "globex"}, buffered=False) as response:
        assert next(iter(response.response)) == b"globex"
    assert closed == ["acme", "globex"]
    assert prefiq.db.fetch_value(FIRST) == "shop"
    prefiq.db.close()


def test_a_websocket_is_its_tenants(files: str) -> None:
    """In Starlette, which is FastAPI's, and in Litestar."""

    async def boot() -> Any:
        return await bootstrap_async(arguments={"database": {"mode": "async", "url": files}})

    prefiq = starlette.PrefiqDb(boot, tenant=told)

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await prefiq.db.fetch_value(FIRST))
        await socket.close()

    app = Starlette(routes=[WebSocketRoute("/", endpoint)], lifespan=prefiq.lifespan)
    app.add_middleware(prefiq.middleware)
    with TestClient(app) as client:
        for name in ("acme", "globex"):
            with client.websocket_connect("/", headers={"X-Tenant": name}) as socket:
                assert socket.receive_text() == name

    other = litestar.PrefiqDb(boot, tenant=told)

    @websocket("/")
    async def handler(socket: LitestarSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(await other.db.fetch_value(FIRST))
        await socket.close()

    served = Litestar([handler], lifespan=[other.lifespan], middleware=[other.middleware])
    with LitestarClient(served) as client_of_litestar:
        for name in ("acme", "globex"):
            with client_of_litestar.websocket_connect("/", headers={"X-Tenant": name}) as session:
                assert session.receive_text() == name


def test_an_override_around_the_application_does_not_choose_the_tenant_of_its_requests(files: str) -> None:
    """A server that is started within one inherits it; what a request says itself weighs more."""
    app = Flask(__name__)
    prefiq = flask.PrefiqDb(app, Database(files), tenant=told)

    @app.get("/first")
    def first() -> Any:
        inside = prefiq.db.using(database="globex").fetch_value(FIRST)
        with prefiq.db.override(database="globex"):
            return [prefiq.db.fetch_value(FIRST), inside]

    @app.get("/plain")
    def plain() -> Any:
        return [prefiq.db.fetch_value(FIRST)]

    client = app.test_client()
    with prefiq.db.override(database="globex"):
        assert client.get("/plain", headers={"X-Tenant": "acme"}).json == ["acme"]
        assert prefiq.db.fetch_value(FIRST) == "globex"
    with prefiq.db.override(database="shop", inherit=False):
        assert client.get("/plain", headers={"X-Tenant": "acme"}).json == ["acme"]
    assert client.get("/first", headers={"X-Tenant": "acme"}).json == ["globex", "globex"]
    prefiq.db.close()


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["database"])
async def test_another_tenants_database_does_not_say_that_a_token_was_not_committed(db: Any, tenants: Tenants) -> None:
    """Nobody knows the token there. Who believed a "not committed" would do the work a second time."""
    view = db.using(**tenants.over(0))
    async with view.transaction(exactly_once=True) as tx:
        await tx.execute(ADD, a)
    for another in (db, db.using(**tenants.over(1))):
        assert str(await another.resolve_outcome(tx.token)) == "unknown"
    assert str(await view.resolve_outcome(tx.token)) == "committed"
    async with db.transaction(exactly_once=True) as own:
        await own.execute(ADD, a)
    with pytest.raises(ZeroDivisionError):
        async with view.transaction(exactly_once=True) as undone:
            await undone.execute("update item set qty = 5")
            raise ZeroDivisionError
    assert str(await db.resolve_outcome(own.token)) == "committed"
    assert str(await view.resolve_outcome(undone.token)) == "not committed"


# --- what a session leaves -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["database"])
@on_servers
async def test_what_a_session_changes_on_its_connection_ends_with_it(
    backend: Backend, tenants: Tenants, make_db: Callable[..., Any]
) -> None:
    """Left in the pool, the connection would write the next user's rows into the other tenant's tables."""
    if backend.name == "postgresql":
        change, where = "set search_path to information_schema", "select current_schema()"
    else:
        change, where = f"use {tenants.names[1]}", "select database()"
    view = make_db(pool_size=1, max_overflow=0).using(**tenants.over(0))
    home = await view.fetch_value(where)
    for work in ("session", "savepoint"):
        if work == "session":
            async with view.session() as session:
                await session.execute(sa.text(change))
                assert (await session.execute(sa.text(where))).scalar_one() != home
                await session.commit()
        else:
            async with view.transaction(), view.session() as session:
                await session.execute(sa.text(change))
                await session.commit()
        assert await view.fetch_value(where) == home
        await view.execute(ADD, {"sku": work, "qty": 1})
    assert await tenants.rows(view, None) == ["savepoint", "session"]
    # the control: without such a statement the connection is used again
    asks = "select pg_backend_pid()" if backend.name == "postgresql" else "select connection_id()"
    first = await view.fetch_value(asks)
    async with view.session() as session:
        assert (await session.execute(sa.text(asks))).scalar_one() == first
    assert await view.fetch_value(asks) == first


async def test_a_template_is_nobodys_database(db: Any) -> None:
    with pytest.raises(UsageError, match="of the server's own"):
        db.using(database="template1")


@pytest.mark.parametrize("kind", ["schema", "database"])
async def test_a_stream_is_not_opened_under_another_tenant(db: Any, tenants: Tenants) -> None:
    """It keeps the tenant that it was made for, also where no override is in force."""
    await db.using(**tenants.over(0)).execute(ADD, a)
    async with db.override(**tenants.over(0)):
        kept, refused = db.stream(SKUS), db.stream(SKUS)
    of_none = db.stream(SKUS)
    async with kept as rows:
        assert [row.sku async for row in rows] == ["A"]
    async with db.override(**tenants.over(1)):
        for each in (refused, of_none):
            with pytest.raises(NestingError):
                async with each:
                    pass


@on_servers
@pytest.mark.parametrize("kind", ["database"])
def test_a_raw_connection_of_a_tenant_is_not_used_again(backend: Backend, tenants: Tenants) -> None:
    """Nobody sees what is sent on it: a USE would take the next user's rows to another tenant."""
    asks = "select pg_backend_pid()" if backend.name == "postgresql" else "select connection_id()"
    with Database(backend.url, pool_size=1, max_overflow=0) as db:
        view = db.using(**tenants.over(0))
        raw = view.engine.raw_connection()
        cursor = raw.cursor()
        cursor.execute(asks)
        used = cursor.fetchone()[0]
        raw.close()
        assert view.fetch_value(asks) != used
        # the control: that of the settings' database is
        first = db.fetch_value(asks)
        db.engine.raw_connection().close()
        assert db.fetch_value(asks) == first
