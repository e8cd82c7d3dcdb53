"""``batch()``: statements that don't need each other's results, all or nothing."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import UniqueViolationError

METADATA = sa.MetaData()
ITEM = sa.Table(
    "item",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(40), nullable=False, unique=True),
    sa.Column("qty", sa.Integer, nullable=False),
)


async def _make_table(db: Any) -> None:
    await db.execute(sa.schema.CreateTable(ITEM))


async def test_a_batch_returns_what_execute_returns(db: Any) -> None:
    """Row counts, keys and rows, in the order of the statements."""
    await _make_table(db)
    results = await db.batch(
        [
            ("insert into item (sku, qty) values (:sku, :qty)", {"sku": "A", "qty": 1}),
            (sa.insert(ITEM), {"sku": "B", "qty": 2}),
            "update item set qty = qty + 1",
            (
                sa.select(ITEM.c.sku, ITEM.c.qty).where(ITEM.c.qty > sa.bindparam("least")).order_by(ITEM.c.sku),
                {"least": 0},
            ),
            "delete from item where sku = 'nobody'",
        ]
    )
    assert [each.rowcount for each in results] == [1, 1, 2, None, 0]
    assert [each.inserted_primary_key for each in results] == [None, (2,), None, None, None]
    assert [tuple(row) for row in results[3].rows] == [("A", 2), ("B", 3)]
    assert results[3].rows[0].sku == "A"


async def test_a_failed_batch_changes_nothing_and_names_the_statement(db: Any) -> None:
    await _make_table(db)
    with pytest.raises(UniqueViolationError, match=r"statements\[2\]") as caught:
        await db.batch(
            [
                ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"}),
                "update item set qty = 7",
                ("insert into item (sku, qty) values (:sku, 1)", {"sku": "A"}),
                "update item set qty = 8",
            ]
        )
    assert caught.value.statement_index == 2
    assert await db.fetch_value("select count(*) from item") == 0
