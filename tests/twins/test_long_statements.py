"""Texts of any length: they are judged to their end, told by their head, and what is remembered of them is bounded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from prefiq_db.errors import StatementRefusedError
from prefiq_db.execution.statement_facts import LONGEST_COMPILED
from prefiq_db.masking import LONGEST_SHOWN
from prefiq_db.memory import MOST_BYTES, Memory
from tests.conftest import Backend
from tests.twins.support import on_engine

_ROWS = ", ".join(map(str, range(10_000_000, 10_006_000)))
_LONG = f"select count(*) from (select 1 as id) t where id in (1, {_ROWS})"
_BOUND = LONGEST_SHOWN + 100


def _engine(db: Any) -> Any:
    return getattr(db.engine, "sync_engine", db.engine)


async def test_what_leaves_the_process_is_bounded(make_db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Events, statistics, the slow log and a session's error tell a long statement by its head, without its values."""
    caplog.set_level(logging.WARNING, "prefiq_db.slow")
    db = make_db(slow_query_seconds=0)
    events: list[Any] = []
    db.hooks.after(events.append)
    assert len(_LONG) > 5 * LONGEST_SHOWN
    assert await db.fetch_value(_LONG) == 1
    told = [event.statement for event in events if event.statement.startswith("select count(*)")]
    told += [each.statement for each in db.stats().statements if each.statement.startswith("select count(*)")]
    told += [record.getMessage() for record in caplog.records if "select count(*)" in record.getMessage()]
    assert len(told) == 3
    with pytest.raises(exc.DBAPIError) as caught:
        await on_engine(db, lambda connection: connection.execute(sa.text(_LONG.replace("from", "from nowhere,", 1))))
    told.append(str(caught.value))
    for text in told:
        assert len(text) < _BOUND + 500
        assert "1000000" not in text
        assert f"it has {len(_LONG)}" in text or text is told[-1]


async def test_a_long_statement_is_one_of_its_kind(make_db: Any) -> None:
    """Lists of any length behind the cut are the same statement, with its table's name."""
    db = make_db()
    for count in (5_000, 6_000, 7_000):
        numbers = ", ".join(map(str, range(10**7, 10**7 + count)))
        await db.fetch_value(f"select count(*) from (select 1 as id) t where id in (1, {numbers})")
    found = [each for each in db.stats().statements if "count(*)" in each.statement]
    assert [(each.summary, each.calls) for each in found] == [("SELECT SELECT", 3)]


@pytest.mark.parametrize("padding", [LONGEST_SHOWN, 2 * LONGEST_COMPILED])
async def test_a_long_text_does_what_a_short_one_does(make_db: Any, padding: int) -> None:
    """Binds, lists, types and what is refused: to the last character."""
    db = make_db()
    blank = f"/* {'x' * padding} */"
    assert await db.fetch_value(f"select {blank} :a", {"a": "b"}) == "b"
    assert await db.fetch_value(f"select 1 {blank} where 2 in :list", {"list": [1, 2]}) == 1
    assert await db.fetch_value(f"select 1 {blank} where 2 in :list", {"list": []}) is None
    assert await db.fetch_value(f"select {blank} 1 as n", types={"n": sa.Integer}) == 1
    with pytest.raises(StatementRefusedError):
        await db.execute(f"select 1 {blank}; commit")
    async with db.transaction() as tx:
        assert await tx.fetch_value(f"select 1 {blank}") == 1
        with pytest.raises(StatementRefusedError):
            await tx.execute(f"{blank} commit")


async def test_what_is_remembered_is_bounded_in_bytes(make_db: Any, backend: Backend) -> None:
    """A service that makes up long texts: no part of ours keeps more than its bytes, nor SQLAlchemy or the driver."""
    db = make_db(pool_size=1, max_overflow=0)
    await db.fetch_value("select 1")
    for number in range(16):
        text = f"select {number} /* {'x' * 300_000} */"
        assert await db.fetch_value(text + " where 1 in :list", {"list": [1]}) == number
    memories = [*_memories_of_modules(), _engine(db).dialect.observer._memory]
    assert len(memories) > 5
    assert max(memory.size_bytes for memory in memories) > 300_000
    assert all(memory.size_bytes <= MOST_BYTES for memory in memories)
    compiled = [str(each) for each in _engine(db)._compiled_cache.values()]
    assert max(map(len, compiled), default=0) < 1000
    if backend.name == "postgresql":
        counted = await on_engine(db, _counted_by_psycopg)
        assert max(map(len, counted), default=0) < 1000


def _memories_of_modules() -> Iterator[Memory[Any]]:
    for name, module in list(sys.modules.items()):
        if name.startswith("prefiq_db"):
            yield from (each for each in vars(module).values() if type(each) is Memory)


def _counted_by_psycopg(connection: Any) -> list[bytes]:
    driver = connection.connection.driver_connection
    return [text for text, _ in (*driver._prepared._counts, *driver._prepared._names)]
