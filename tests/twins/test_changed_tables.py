"""A text that is known sees a table as it is now, whoever changed it, and wherever the text runs."""

from __future__ import annotations

from typing import Any

import pytest

READ = "select * from thing order by id"
WARM = 8  # psycopg prepares at the sixth


@pytest.mark.parametrize("way", ["by itself", "with a listener", "in a transaction"])
async def test_a_column_that_somebody_else_adds_is_seen(make_db: Any, way: str) -> None:
    """Also by psycopg, whose server says that a cached plan must not change its result type."""
    db, other = make_db(pool_size=1), make_db(pool_size=1)
    await other.execute("create table thing (id integer primary key, word varchar(20))")
    await other.execute("insert into thing values (1, 'a')")
    if way == "with a listener":
        db.hooks.after(lambda event: None)

    async def read() -> list[Any]:
        if way != "in a transaction":
            return list(await db.fetch_all(READ))
        return list(await db.run_in_transaction(lambda tx: tx.fetch_all(READ)))

    for _ in range(WARM):
        assert await read() == [(1, "a")]
    await other.execute("alter table thing add column more integer")
    for _ in range(WARM):
        (row,) = await read()
        assert row._mapping == {"id": 1, "word": "a", "more": None}
    await other.execute("alter table thing drop column word")
    for _ in range(WARM):
        (row,) = await read()
        assert row._mapping == {"id": 1, "more": None}


async def test_a_bind_of_another_type_makes_a_column_of_another_type(db: Any) -> None:
    """The text is the same, and what was noted of its rows doesn't hold for them."""
    await db.execute("create table thing (id integer primary key, word varchar(20))")
    for _ in range(WARM):
        assert await db.fetch_value("select :value as value", {"value": "a"}) == "a"
        assert await db.fetch_value("select :value as value", {"value": 7}) == 7
        assert await db.fetch_value("select :value as value", {"value": None}) is None
