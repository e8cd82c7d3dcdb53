"""``upsert``, ``bulk_insert`` and ``batch`` take names with ``%``."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert as mysql_insert

from tests.twins.support import in_engine_begin

# --- % in names ----------------------------------------------------------------------------------

NAMES = {
    "a column": ("item", "sku", "qty%d", "changed"),
    "the key": ("item", "sku%s", "qty", "changed"),
    "the table": ("item%s", "sku", "qty", "changed"),
    "all": ("it%%em", "%s%sku", "%(qty)s", "100%"),
}


def named(table: str, sku: str, qty: str, changed: str) -> sa.Table:
    return sa.Table(
        table,
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(sku, sa.String(20), nullable=False, unique=True),
        sa.Column(qty, sa.Integer, nullable=False),
        sa.Column(changed, sa.Integer, onupdate=sa.literal_column("1")),
    )


@pytest.mark.parametrize("where", NAMES)
async def test_a_percent_sign_in_a_name_is_one(db: Any, where: str) -> None:
    """Drivers take % for the beginning of a bind. In rows, keys, updates, results, and in expressions of both rows."""
    _, sku, qty, _ = NAMES[where]
    item = named(*NAMES[where])
    await in_engine_begin(db, item.metadata.create_all)

    async def stored() -> list[int]:
        return [row[0] for row in await db.fetch_all(sa.select(item.c[qty]).order_by(item.c[sku]))]

    rows = [{sku: "%s", qty: 1}, {sku: "a 100%%", qty: 2}]
    added: Any = {qty: lambda stored, given: stored[qty] + given[qty]}
    for table in (item, item.name):
        await db.execute(sa.delete(item))
        await db.upsert(table, rows[0], key=sku)
        for update, expected in ((None, [1, 2]), (added, [2, 4]), ({qty: 7}, [7, 7]), ([qty], [1, 2]), ((), [1, 2])):
            result = await db.upsert(table, rows, key=sku, update=update, returning=[qty, sku])
            assert [tuple(row) for row in result.rows] == list(zip(expected, ["%s", "a 100%%"], strict=True))
            assert await stored() == expected
        await db.upsert(table, rows[0], key=sku, update=added)
        assert await stored() == [2, 2]
        await db.bulk_insert(table, [*rows, {sku: "b%", qty: 3}], on_conflict="ignore")
        await db.bulk_insert(table, [{sku: "c%", qty: 4}])
        await db.bulk_insert(table, [(8, "%s"), (9, "b%")], columns=[qty, sku], on_conflict="update")
        assert await stored() == [8, 2, 9, 4]
    more = sa.insert(item).values({sku: "d%", qty: 5})
    results = await db.batch([more, sa.select(item.c[qty]).where(item.c[sku] == "d%"), sa.delete(item)])
    assert (results[1].rows, results[2].rowcount) == ([(5,)], 5)


@pytest.mark.parametrize("backend", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
async def test_a_percent_sign_in_ones_own_on_duplicate_key_update(db: Any) -> None:
    item = named(*NAMES["all"])
    await in_engine_begin(db, item.metadata.create_all)
    insert = mysql_insert(item)
    insert = insert.on_duplicate_key_update({"%(qty)s": insert.inserted["%(qty)s"] + item.c["%(qty)s"], "100%": 5})
    for _ in range(2):
        await db.execute(insert.values({"%s%sku": "A", "%(qty)s": 4}))
    assert await db.fetch_all(sa.select(item.c["%(qty)s"], item.c["100%"])) == [(8, 5)]
