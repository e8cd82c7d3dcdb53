"""A database whose settings say ``read_only``: the server refuses every write by whatever road; reads cost no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from prefiq_db import AsyncDatabase, Database, DatabaseSettings
from prefiq_db.connectors import mariadb_connector as mariadb
from prefiq_db.errors import ErrorKind, PrefiqDbError, ReadOnlyError, UnsupportedError
from prefiq_db.events import AttemptFailed, Listener
from prefiq_db.health import AsyncHealthCheck, HealthCheck
from prefiq_db.migrate import migrations_directory
from prefiq_db.migrate.command_line import main
from prefiq_db.testing.wire import WireCounter
from tests.conftest import Backend
from tests.twins.harness import drive, make_database
from tests.twins.support import COUNT_STOCK, CREATE_STOCK, INSERT_STOCK, in_engine_begin, on_engine

on_servers = pytest.mark.parametrize(
    "backend",
    [pytest.param("postgresql", marks=pytest.mark.postgresql), pytest.param("mariadb", marks=pytest.mark.mariadb)],
    indirect=True,
)
on_postgresql = pytest.mark.parametrize(
    "backend", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True
)
on_mariadb = pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
on_sqlite = pytest.mark.parametrize("backend", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)

WRITE = "update stock set quantity = quantity + 1"


class Base(DeclarativeBase):
    pass


class Stock(Base):
    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    quantity: Mapped[int]


@pytest.fixture
def stock(backend: Backend) -> Iterator[Database]:
    """The table ``stock`` with one row, and a database that may write, to look with."""
    with Database(backend.url) as db:
        db.execute(CREATE_STOCK)
        db.execute(INSERT_STOCK, {"id": 1, "quantity": 3})
        yield db
        # Each test ends here: whatever it tried, nothing was written.
        assert db.fetch_all("select id, quantity from stock") == [(1, 3)]


@pytest.fixture
def reader(stock: Database, make_db: Callable[..., Any]) -> Any:
    return make_db(read_only=True, pool_size=1, max_overflow=0)


# --- every road ------------------------------------------------------------------------------------


async def test_every_verb_reads_and_refuses_to_write(reader: Any) -> None:
    assert await reader.fetch_value(COUNT_STOCK) == 1
    assert await reader.fetch_all("select id, quantity from stock where id = :id", {"id": 1}) == [(1, 3)]
    for write in (
        lambda: reader.execute(WRITE),
        lambda: reader.execute(INSERT_STOCK, {"id": 2, "quantity": 1}),
        lambda: reader.execute(sa.delete(Stock)),
        lambda: reader.fetch_all("delete from stock"),
        lambda: reader.fetch_value("delete from stock"),
        lambda: reader.execute_many(INSERT_STOCK, [{"id": 2, "quantity": 1}, {"id": 3, "quantity": 1}]),
        lambda: reader.execute("create table other (id integer primary key)"),
        lambda: reader.execute("drop table stock"),
        lambda: reader.run_in_transaction(lambda tx: tx.execute(WRITE)),
        reader.transactional(lambda tx: tx.execute(WRITE)),
        lambda: reader.run_in_transaction(lambda tx: tx.execute(WRITE), isolation="SERIALIZABLE"),
    ):
        with pytest.raises(ReadOnlyError) as caught:
            await write()
        assert not caught.value.is_transient
    assert await reader.fetch_value(COUNT_STOCK) == 1


async def test_nothing_switches_it_off(reader: Any) -> None:
    for view in (reader, reader.using(read_only=False), reader.using(timeout=9), reader.using(read_only=True)):
        assert await view.fetch_value(COUNT_STOCK) == 1
        with pytest.raises(ReadOnlyError):
            await view.execute(WRITE)
        with pytest.raises(ReadOnlyError):
            async with view.transaction(read_only=False) as tx:
                await tx.execute(WRITE)
        with pytest.raises(ReadOnlyError):
            async with view.transaction(), view.transaction() as tx:
                assert await tx.fetch_value(COUNT_STOCK) == 1
                await tx.execute(WRITE)
    async with reader.override(read_only=False):
        with pytest.raises(ReadOnlyError):
            await reader.execute(WRITE)
        with pytest.raises(ReadOnlyError):
            async with reader.transaction() as tx:
                await tx.execute_many(INSERT_STOCK, [{"id": 2, "quantity": 1}])
    # Transactions leave nothing behind that lets the next statement write.
    with pytest.raises(ReadOnlyError):
        await reader.execute(WRITE)


async def test_sessions_read_and_refuse_to_write(reader: Any) -> None:
    async with reader.session() as session:
        assert (await session.get(Stock, 1)).quantity == 3
        session.add(Stock(id=2, quantity=1))
        with pytest.raises((ReadOnlyError, sa.exc.DBAPIError)):
            await session.flush()
        await session.rollback()
        (await session.get(Stock, 1)).quantity = 4
        with pytest.raises((ReadOnlyError, sa.exc.DBAPIError)):
            await session.commit()
        await session.rollback()
        with pytest.raises((ReadOnlyError, sa.exc.DBAPIError)):
            await session.execute(sa.text(WRITE))
        await session.rollback()


async def test_connections_of_the_engine_refuse_to_write(reader: Any, backend: Backend) -> None:
    def write(connection: sa.Connection) -> None:
        assert connection.scalar(sa.text(COUNT_STOCK)) == 1
        connection.execute(sa.text(WRITE))
        connection.commit()

    refused = (ReadOnlyError, sa.exc.DBAPIError)
    for options in ({}, {"isolation_level": "AUTOCOMMIT"}, {"isolation_level": "SERIALIZABLE"}):
        with pytest.raises(refused):
            await on_engine(reader, write, **options)
    if backend.name == "postgresql":
        with pytest.raises(refused):
            await on_engine(reader, write, postgresql_readonly=False)
    with pytest.raises(refused):
        await in_engine_begin(reader, lambda connection: connection.execute(sa.text(WRITE)))
    with pytest.raises(refused):
        await in_engine_begin(reader, Base.metadata.drop_all)


async def test_a_session_joins_a_transaction(reader: Any) -> None:
    async with reader.transaction() as tx, tx.session() as session:
        assert (await session.get(Stock, 1)).quantity == 3


async def test_control_without_the_setting_it_writes(stock: Database, make_db: Callable[..., Any]) -> None:
    """A control: the same statements, on the same database, are no errors by themselves."""
    writer = make_db(pool_size=1)
    await writer.execute(WRITE)
    async with writer.transaction() as tx:
        await tx.execute("update stock set quantity = 3")
    await in_engine_begin(writer, lambda connection: connection.execute(sa.text("update stock set quantity = 3")))


# --- once, and at no cost --------------------------------------------------------------------------


class Attempts(Listener):
    def __init__(self) -> None:
        self.kinds: list[ErrorKind | None] = []

    def attempt_failed(self, event: AttemptFailed) -> None:
        self.kinds.append(event.kind)


async def test_a_refused_write_is_tried_once_and_keeps_the_pool(reader: Any) -> None:
    """It is no failover: another attempt, or another connection, would meet the same."""
    attempts = Attempts()
    reader.hooks.add(attempts)
    await reader.open()
    opened = reader.stats().pool.opened_count
    for write in (lambda: reader.execute(WRITE), lambda: reader.run_in_transaction(lambda tx: tx.execute(WRITE))):
        with pytest.raises(ReadOnlyError):
            await write()
    with pytest.raises((ReadOnlyError, sa.exc.DBAPIError)):
        await in_engine_begin(reader, lambda connection: connection.execute(sa.text(WRITE)))
    assert attempts.kinds == []
    assert await reader.fetch_value(COUNT_STOCK) == 1
    assert reader.stats().pool.opened_count == opened


@pytest.fixture
def wire(backend: Backend) -> Iterator[WireCounter]:
    assert backend.server is not None
    with WireCounter(backend.server.host, backend.server.port) as counter:
        yield counter


@pytest.fixture
def counted(wire: WireCounter, backend: Backend, stock: Database, world: str, loop_runner: Any) -> Iterator[Any]:
    run = loop_runner.run if world == "async" else drive
    url = wire.url(backend.url)
    db = make_database(world, url, read_only=True, ssl_mode="disable", pool_size=1, max_overflow=0)
    run(db.open())
    yield db
    run(db.close())


@on_servers
async def test_reads_cost_no_round_trip_more(counted: Any, wire: WireCounter) -> None:
    for view in (counted, counted.using(read_only=True), counted.using(tags={"route": "a"})):
        with wire.count() as read:
            await view.fetch_all("select quantity from stock where id = :id", {"id": 1})
        assert read.round_trips == 1
    with wire.count() as transaction:
        async with counted.transaction() as tx:
            await tx.fetch_value(COUNT_STOCK)
            await tx.fetch_value(COUNT_STOCK)
    assert transaction.round_trips == 3


@on_postgresql
async def test_behind_a_pooler_each_begin_says_it(stock: Database, make_db: Callable[..., Any]) -> None:
    """There no session keeps anything, so that a read becomes a transaction, and AUTOCOMMIT is refused."""
    reader = make_db(read_only=True, pgbouncer=True, pool_size=1)
    assert await reader.fetch_value(COUNT_STOCK) == 1
    assert await reader.fetch_value("select current_setting('default_transaction_read_only')") == "off"
    for write in (
        lambda: reader.execute(WRITE),
        lambda: reader.using(read_only=False).execute(WRITE),
        lambda: reader.execute_many(INSERT_STOCK, [{"id": 2, "quantity": 1}]),
        lambda: reader.run_in_transaction(lambda tx: tx.execute(WRITE)),
        lambda: in_engine_begin(reader, lambda connection: connection.execute(sa.text(WRITE))),
    ):
        with pytest.raises((ReadOnlyError, sa.exc.DBAPIError)):
            await write()
    with pytest.raises(UnsupportedError, match="read_only"):
        await on_engine(reader, lambda connection: connection.execute(sa.text(WRITE)), isolation_level="AUTOCOMMIT")


# --- what must write, and says so ------------------------------------------------------------------


async def test_what_needs_a_write_is_refused_by_name(reader: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"exactly_once: the token is a write, and .* main say read_only"):
        await reader.run_in_transaction(lambda tx: tx.fetch_value(COUNT_STOCK), exactly_once=True)
    with pytest.raises(UnsupportedError, match="read_only"):
        async with reader.transaction(exactly_once=True):
            pass
    with pytest.raises(UnsupportedError, match=r"resolve_outcome: .* read_only"):
        await reader.resolve_outcome("0192f3a4-0000-7000-8000-000000000001")
    assert await reader.fetch_value(COUNT_STOCK) == 1


@pytest.mark.parametrize("world", ["sync"])
async def test_migrations_are_refused_and_looking_is_not(
    backend: Backend, world: str, stock: Database, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_URL", backend.url)
    monkeypatch.setenv("DB_READ_ONLY", "1")
    assert main(["up"]) == 2
    assert "the settings of database main say read_only" in capsys.readouterr().err
    assert main(["status"]) == 0
    assert main(["current"]) == 0
    assert main(["check"]) == 1
    assert main(["sql"]) == 0
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    with Database(DatabaseSettings(url=backend.url, read_only=True)) as db, db.engine.connect() as connection:
        config.attributes["connection"] = connection
        with pytest.raises(UnsupportedError, match="read_only"):
            command.upgrade(config, "head")
    monkeypatch.setenv("DB_READ_ONLY", "no")
    capsys.readouterr()
    assert main(["up"]) == 0
    assert main(["down", "base"]) == 0


# --- health ----------------------------------------------------------------------------------------


async def test_it_is_well(reader: Any, world: str) -> None:
    """It need not be writable: that it isn't is what the settings ask for."""
    report = await reader.health()
    assert report.healthy
    raw = getattr(reader, "_wrapped", reader)
    if world == "async":
        assert isinstance(raw, AsyncDatabase)
        health = await AsyncHealthCheck(raw).health()
    else:
        health = HealthCheck(raw).health()
    assert (health.status.value, health.reason) == ("pass", "")


@on_sqlite
async def test_a_file_that_is_gone_is_not_well(reader: Any, backend: Backend, world: str, tmp_path: Path) -> None:
    await reader.open()
    file, aside = tmp_path / "test.db", tmp_path / "aside.db"
    file.rename(aside)
    raw = getattr(reader, "_wrapped", reader)
    health = await AsyncHealthCheck(raw).health() if world == "async" else HealthCheck(raw).health()
    aside.rename(file)
    assert health.reason == "main: not_ready"


# --- where it is -----------------------------------------------------------------------------------


@on_sqlite
async def test_a_file_that_is_not_there_is_not_made(world: str, tmp_path: Path, backend: Backend) -> None:
    path = tmp_path / "100% such?a #file.db"
    url = f"sqlite:///{tmp_path}/100%25%20such%3Fa%20%23file.db"
    reader = make_database(world, url, read_only=True)
    with pytest.raises(PrefiqDbError):
        await reader.fetch_value("select 1")
    await reader.close()
    assert not path.exists()
    with Database(url) as db:
        db.execute(CREATE_STOCK)
    reader = make_database(world, url, read_only=True)
    assert await reader.fetch_value(COUNT_STOCK) == 0
    # Not even somebody who knows how: the file is open to be read.
    with pytest.raises((ReadOnlyError, sa.exc.DBAPIError)):
        await on_engine(reader, _past_the_pragma)
    await reader.close()


def _past_the_pragma(connection: sa.Connection) -> None:
    connection.connection.cursor().execute("PRAGMA query_only = OFF")
    connection.execute(sa.text(WRITE))


@on_sqlite
async def test_in_memory_nothing_is_written(world: str, backend: Backend) -> None:
    reader = make_database(world, "sqlite://", read_only=True)
    with pytest.raises(ReadOnlyError):
        await reader.execute(CREATE_STOCK)
    await reader.close()


@on_servers
@pytest.mark.parametrize("wanted", ["", "?target_session_attrs=any", "?target_session_attrs=read-write"])
async def test_of_several_hosts_any_that_is_asked_for_will_do(
    stock: Database, backend: Backend, world: str, wanted: str
) -> None:
    """That our sessions only read says nothing about the server."""
    url = sa.make_url(backend.url)
    two = f"{url.host}:{url.port},{url.host}:{url.port}"
    text = backend.url.replace(f"{url.host}:{url.port}", two) + wanted
    reader = make_database(world, text, read_only=True)
    assert await reader.fetch_value(COUNT_STOCK) == 1
    await reader.close()


@on_mariadb
async def test_a_procedure_that_writes_is_refused(stock: Database, reader: Any) -> None:
    stock.execute("create procedure add_one() update stock set quantity = quantity + 1")
    with pytest.raises(ReadOnlyError):
        await reader.execute("call add_one()")
    with pytest.raises(ReadOnlyError):
        await reader.execute("truncate table stock")


@on_mariadb
def test_control_the_refusal_is_the_servers_not_ours(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control: we read no statement to find out whether it writes. Without what the session is told, it does."""
    monkeypatch.setattr(mariadb, "_MYSQL_READ_ONLY", "")
    with Database(DatabaseSettings(url=backend.url, read_only=True)) as db:
        db.execute(CREATE_STOCK)
        assert db.fetch_value(COUNT_STOCK) == 0
