"""A program that makes up one text after another, and tells how its memory stood: for ``test_memory_of_texts.py``.

``python -m tests.twins.many_texts WORLD URL COUNT HOW`` prints one JSON object. *HOW* is ``drops``, or a control:
``keeps`` keeps every text, ``unbounded`` lets our caches of texts grow.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import sqlalchemy as sa

from prefiq_db.errors import SchemaError
from prefiq_db.memory import Memory
from tests.twins.harness import drive, make_database

PADDING = "x" * 500
SAMPLES = 20

item = sa.Table("item", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("qty", sa.Integer))


def comment(number: int) -> str:
    return f"/* {number} {PADDING} */"


# --- one text each ---------------------------------------------------------------------------------


async def literal(db: Any, number: int) -> None:
    assert await db.fetch_value(f"select {number} as n_{number} {comment(number)}") == number


async def with_values(db: Any, number: int) -> None:
    text = f"select id, :value as v_{number} from item where id = :id {comment(number)}"
    assert tuple(await db.fetch_one(text, {"value": str(number), "id": 1})) == (1, str(number))


async def with_a_list(db: Any, number: int) -> None:
    """Each length of a list is another text for the driver."""
    text = f"select id as i_{number} from item where id in :ids {comment(number)}"
    await db.fetch_all(text, {"ids": list(range(number % 100))})


async def often(db: Any, number: int) -> None:
    """On the short way, and as often as psycopg needs to prepare it."""
    text = f"select id, qty as q_{number} from item where id = :id {comment(number)}"
    for _ in range(7):
        await db.fetch_one(text, {"id": 1})


async def construct(db: Any, number: int) -> None:
    """Each of another shape: SQLAlchemy compiles it anew."""
    statement = sa.select(item.c.id, sa.literal(number).label(f"n_{number}")).where(item.c.id == number % 3)
    for _ in range(2):
        await db.fetch_all(statement)


async def in_transaction(db: Any, number: int) -> None:
    async with db.transaction() as tx:
        await tx.execute(f"update item set qty = {number} where id = :id {comment(number)}", {"id": 1})
        await tx.fetch_value(sa.select(item.c.qty.label(f"q_{number}")))
        async with tx.transaction() as inner:
            await inner.fetch_all(f"select qty as q_{number} from item {comment(number)}")


async def batched(db: Any, number: int) -> None:
    write = f"update item set qty = :qty where id = 1 {comment(number)}"
    await db.batch([(write, {"qty": number}), f"select qty as q_{number} from item {comment(number)}"])


async def streamed(db: Any, number: int) -> None:
    async with db.stream(f"select id as i_{number} from item {comment(number)}") as rows:
        assert len([row async for row in rows]) == 3


async def many(db: Any, number: int) -> None:
    text = f"update item set qty = :qty where id = :id {comment(number)}"
    await db.execute_many(text, [{"qty": number, "id": each} for each in (1, 2, 3)])


async def failing(db: Any, number: int) -> None:
    try:
        await db.fetch_one(f"select nothing_{number} from item {comment(number)}")
    except SchemaError:
        return
    raise AssertionError("there is no such column")


async def typed(db: Any, number: int) -> None:
    text = f"select id, qty as q_{number} from item {comment(number)}"
    assert len(await db.fetch_all(text, types={"id": sa.Integer}, into=dict)) == 3


async def written(db: Any, number: int) -> None:
    await db.execute(f"update item set qty = {number} where id = 1 {comment(number)}")


async def in_session(db: Any, number: int) -> None:
    async with db.session() as session:
        await session.execute(sa.text(f"select qty as q_{number} from item {comment(number)}"))
        await session.execute(sa.select(item.c.qty.label(f"q_{number}")))


async def with_tags(db: Any, number: int) -> None:
    view = db.using(tags={"route": f"r{number}"}, timeout=20)
    assert await view.fetch_value(f"select {number} as n_{number} {comment(number)}") == number


Way = Callable[[Any, int], Awaitable[None]]
RARE: list[Way] = [often, in_transaction, batched, streamed, many, failing, typed, written, in_session, with_tags]
#: mostly what costs little, so that 200,000 take minutes
WAYS: list[Way] = [*[literal] * 16, *[with_values] * 8, *[construct] * 4, *[with_a_list] * 2, *RARE]


# --- how memory stands -------------------------------------------------------------------------------


def resident_bytes() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def growth(samples: list[int]) -> int:
    """Return how much more there was in the last quarter than in the second: in the first one the caches fill."""
    quarter = len(samples) // 4
    return max(samples[-quarter:]) - max(samples[quarter : 2 * quarter])


async def caches(db: Any) -> dict[str, int]:
    """Return how much each cache holds in the end."""
    engine = getattr(db, "_wrapped", db)._core.instance.engine
    memories = [each for each in gc.get_objects() if isinstance(each, Memory)]
    found = {
        "largest cache": max(len(each.kept) for each in memories),
        "constructs": len(getattr(db, "_wrapped", db)._core.road._constructs),
        "compiled": len(engine._compiled_cache),
        "statistics": len(db.stats().statements),
        "slow log": len(getattr(db, "_wrapped", db)._core.instance.observer.slow._last),
    }
    if engine.dialect.name == "postgresql":
        found["prepared at the server"] = await db.fetch_value("select count(*) from pg_prepared_statements")
        record = engine.pool._idle()
        driver = getattr(record.dbapi_connection, "_connection", record.dbapi_connection)
        engine.pool._pool.put(record, False)
        found["prepared by the driver"] = len(driver._prepared._names)
        found["counted by the driver"] = len(driver._prepared._counts)
    elif engine.dialect.name != "sqlite":
        row = await db.fetch_one("show session status like 'Prepared_stmt_count'")
        found["prepared at the server"] = 0 if row is None else int(row[1])
    return found


async def run(world: str, url: str, count: int, how: str) -> dict[str, Any]:
    kept: list[str] = []
    resident: list[int] = []
    blocks: list[int] = []
    started = time.monotonic()
    async with make_database(world, url, pool_size=1, max_overflow=0, slow_query_seconds=0) as db:
        await db.execute(sa.schema.CreateTable(item))
        await db.execute_many(sa.insert(item), [{"id": number, "qty": 0} for number in (1, 2, 3)])
        for number in range(count):
            await WAYS[number % len(WAYS)](db, number)
            if how == "keeps":
                kept.append(comment(number) * 5)
            if number % (count // SAMPLES) == count // SAMPLES - 1:
                resident.append(resident_bytes())
                blocks.append(sys.getallocatedblocks())
        found = {
            "texts": count,
            "seconds": round(time.monotonic() - started),
            "growth_bytes": growth(resident),
            "growth_blocks": growth(blocks),
            "resident_mib": [each >> 20 for each in resident],
            "caches": await caches(db),
        }
        await db.execute("drop table item")
    return found


def _keep_without_limit(memory: Memory[Any], key: Any, value: Any, *texts: str) -> Any:
    memory.kept[key] = value
    return value


def main(world: str, url: str, count: str, how: str) -> None:
    slow = logging.getLogger("prefiq_db.slow")
    slow.addHandler(logging.NullHandler())
    slow.propagate = False
    if how == "unbounded":
        Memory.keep = _keep_without_limit  # type: ignore[method-assign]  # the control
    running = run(world, url, int(count), how)
    print(json.dumps(asyncio.run(running) if world == "async" else drive(running)))


if __name__ == "__main__":
    main(*sys.argv[1:])
