"""A primary that doesn't say how far it is: MariaDB without a binary log, as a Galera node may be.

Reads in a scope that has written go to the primary, since no replica can be asked whether it has that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.dialects.travelling_mariadb import MariadbTravelling
from prefiq_db.testing import MariaDbServer
from tests.conftest import _find

pytestmark = pytest.mark.mariadb

INSERT = "insert into item (id) values (:id)"
PORT = "select @@port"
COUNT = "select count(*) from item"


async def _in_transaction(db: Any) -> None:
    async with db.transaction() as tx:
        await tx.execute(INSERT, {"id": 1})


async def _in_session(db: Any) -> None:
    async with db.session() as session:
        await session.execute(sa.text(INSERT), {"id": 1})
        await session.commit()


WAYS: dict[str, Callable[[Any], Any]] = {
    "statement": lambda db: db.execute(INSERT, {"id": 1}),
    "rows": lambda db: db.execute_many(INSERT, [{"id": 1}]),
    "batch": lambda db: db.batch([(INSERT, {"id": 1})]),
    "bulk": lambda db: db.bulk_insert("item", [{"id": 1}]),
    "transaction": _in_transaction,
    "session": _in_session,
}


@pytest.fixture(scope="module")
def apart() -> Iterator[list[MariaDbServer]]:
    """Two servers without a binary log: neither knows anything of the other."""
    _find(MariaDbServer)
    with MariaDbServer() as one, MariaDbServer() as other:
        yield [one, other]


async def _made(apart: list[MariaDbServer], opened: Callable[..., Any]) -> Any:
    """Return a database on the first, whose user can't find out that the second follows nobody."""
    name = apart[0].create_database()
    for server in apart:
        server.execute(f"create database if not exists {name}")
        server.execute("create or replace user prefiq_unmarked@'%' identified by 'secret'")
        server.execute(f"grant all on {name}.* to prefiq_unmarked@'%'")
        server.execute("create table item (id integer primary key)", name)
    url, other = (f"mariadb://prefiq_unmarked:secret@{each.host}:{each.port}/{name}" for each in apart)
    return opened(url, replicas=[{"url": other, "name": "r1"}], ssl_mode="disable")


@pytest.mark.parametrize("way", WAYS)
async def test_the_primary_answers_who_has_written(
    apart: list[MariaDbServer], opened: Callable[..., Any], way: str
) -> None:
    db = await _made(apart, opened)
    reader = db.using(replica=True)
    assert await reader.fetch_value(PORT) == apart[1].port, "nothing was written"
    async with db.override(tags={"scope": "own"}):
        await WAYS[way](db)
        assert await reader.fetch_value(COUNT) == 1
        async with db.transaction(read_only=True, replica=True) as tx:
            assert await tx.fetch_value(COUNT) == 1
        async with reader.stream(COUNT) as rows:
            assert [row[0] async for row in rows] == [1]
        assert (await reader.batch([COUNT]))[0].rows[0][0] == 1
        assert await db.using(replica=True, after=await db.mark()).fetch_value(COUNT) == 1
        with pytest.raises(Exception, match="doesn't say"):
            await _on_engine(db)


async def _on_engine(db: Any) -> None:
    engine = db.engine_for("r1")
    if db.is_async:
        async with engine.connect() as connection:
            await connection.scalar(sa.text(COUNT))
        return
    with engine.connect() as connection:
        connection.scalar(sa.text(COUNT))


async def test_control_taken_for_one_that_tells_it_is_stale(
    apart: list[MariaDbServer], opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MariadbTravelling, "_has_told", True)
    db = await _made(apart, opened)
    async with db.override(tags={"scope": "own"}):
        await WAYS["transaction"](db)
        assert await db.using(replica=True).fetch_value(COUNT) == 0
