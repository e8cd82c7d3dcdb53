"""The harness itself, on real databases: one body with every kind of scope runs in both worlds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import text

from prefiq_db.engines import make_engine
from prefiq_db.settings import DatabaseSettings
from tests.conftest import Backend
from tests.twins import support
from tests.twins.harness import Harness


@pytest.fixture
def create_stock() -> str:
    return "create table stock (id integer primary key, quantity integer not null)"


async def test_every_scope_can_be_awaited(db: Any, create_stock: str) -> None:
    await db.execute(create_stock)
    await db.execute_many("insert into stock (id, quantity) values (:id, :quantity)", [{"id": 1, "quantity": 5}])
    async with db.transaction() as tx:
        await tx.execute("update stock set quantity = quantity - 1")
        async with tx.transaction():
            await db.execute("update stock set quantity = quantity - 1")

    async def fails() -> None:
        async with db.transaction():
            await db.execute("delete from stock")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    for attempt in db.attempts():
        async with attempt as tx:
            await tx.execute("update stock set quantity = quantity - 1")
    async with db.override(timeout=9), db.session() as session:
        assert (await session.execute(text("select quantity from stock"))).scalar_one() == 2
    assert await db.using(timeout=9).fetch_value("select quantity from stock") == 2
    assert await db.test_connection() is True


async def test_async_bodies_and_callbacks_are_run(db: Any, create_stock: str) -> None:
    await db.execute(create_stock)
    committed = []

    async def body(tx: Any, number: int) -> int:
        async def callback() -> None:
            committed.append(number)

        tx.on_commit(callback)
        await tx.execute("insert into stock (id, quantity) values (:id, 0)", {"id": number})
        assert number not in committed
        return number * 2

    assert await db.run_in_transaction(body, 4) == 8
    assert committed == [4]
    assert await db.transactional(body)(5) == 10
    assert committed == [4, 5]


async def test_workers_have_connections_of_their_own(db: Any, harness: Harness, create_stock: str) -> None:
    await db.execute(create_stock)
    inserted, looked = harness.event(), harness.event()

    async def writer() -> None:
        async with db.transaction() as tx:
            await tx.execute("insert into stock (id, quantity) values (1, 1)")
            inserted.set()
            await looked.wait()

    async def reader() -> int:
        await inserted.wait()
        count: int = await db.fetch_value("select count(*) from stock")
        looked.set()
        return count

    assert await harness.together(writer, reader) == [None, 0]
    assert await db.fetch_value("select count(*) from stock") == 1


async def test_make_db_takes_settings(make_db: Callable[..., Any], backend: Backend) -> None:
    small = make_db(pool_size=1, max_overflow=0, name="small")
    assert small.name == "small"
    assert await small.fetch_value("select 1") == 1
    assert small.stats().pool.checked_out == 0


def test_a_schema_that_is_sent_again_is_the_migrated_one(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables with their types, defaults, indexes and options, and the revision."""
    monkeypatch.setattr(support, "_SENT", {})
    support.upgrade_schema(backend)
    again = Backend("sqlite", f"sqlite:///{tmp_path / 'again.db'}")
    if backend.server is not None:
        again = Backend(backend.name, backend.server.url(backend.server.create_database()), backend.server)
    support.upgrade_schema(again)
    assert support._SENT[backend.name]
    assert _described(again) == _described(backend)
    if backend.server is not None:
        backend.server.drop_database(again.url.rpartition("/")[2])


def _described(backend: Backend) -> list[Any]:
    engine = make_engine(DatabaseSettings(url=backend.url))
    inspector = sa.inspect(engine)
    names = sorted(inspector.get_table_names())
    found: list[Any] = [names]
    for name in names:
        found += [
            [{**column, "type": repr(column["type"])} for column in inspector.get_columns(name)],
            inspector.get_indexes(name),
            inspector.get_pk_constraint(name),
            inspector.get_check_constraints(name),
            inspector.get_table_options(name),
        ]
    with engine.connect() as connection:
        found.append(connection.exec_driver_sql("select version_num from prefiq_alembic_version").scalars().all())
        if backend.name == "sqlite":
            found.append(connection.exec_driver_sql("pragma journal_mode").scalar())
            found.append(connection.exec_driver_sql("select sql from sqlite_master order by name").scalars().all())
    engine.dispose()
    return found
