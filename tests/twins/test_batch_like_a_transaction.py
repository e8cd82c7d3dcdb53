"""A batch gives what the same statements give one by one in a transaction: rows, counts, keys, types and errors."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db.errors import PrefiqDbError
from tests.conftest import Backend

METADATA = sa.MetaData()
ITEM = sa.Table(
    "item",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(40), nullable=False, unique=True),
    sa.Column("qty", sa.Integer, nullable=False, default=3),
    sa.Column("price", sa.Numeric(12, 2)),
    sa.Column("made", sa.Date),
    sa.Column("photo", sa.LargeBinary(100)),
    sa.Column("sold", sa.Boolean),
    sa.CheckConstraint("qty >= 0", name="ck_item_qty"),
)
NAMED = sa.Table("named", METADATA, sa.Column("name", sa.String(40), primary_key=True), sa.Column("note", sa.Text))

Make = Callable[[random.Random], Any]


def _sku(chance: random.Random) -> str:
    return chance.choice(["A", "B", "C", "it's 100 %", "naïve -- no; comment", "/* x */", "back\\slash", '"quoted"'])


def _row(chance: random.Random) -> dict[str, Any]:
    return {
        "sku": _sku(chance),
        "qty": chance.choice([0, 1, 7]),
        "price": chance.choice([None, Decimal("1.10"), Decimal("9999999999.99")]),
        "made": chance.choice([None, dt.date(2024, 2, 29)]),
        "photo": chance.choice([None, b"", b"\x00\xff'\\;--"]),
        "sold": chance.choice([None, True, False]),
    }


#: What may succeed or fail, change rows or not, and return rows or not; in text and in Core.
STATEMENTS: list[Make] = [
    lambda chance: (sa.insert(ITEM), _row(chance)),
    lambda chance: sa.insert(ITEM).values(**_row(chance)),
    lambda chance: sa.insert(ITEM).values([_row(chance), {**_row(chance), "sku": "Z"}]),
    lambda chance: sa.insert(ITEM).values(sku=_sku(chance)),
    lambda chance: (sa.insert(NAMED), {"name": _sku(chance), "note": "x"}),
    lambda chance: ("insert into item (sku, qty) values (:sku, :qty)", {"sku": _sku(chance), "qty": 1}),
    lambda chance: ("insert into item (sku, qty) values (:sku, :qty) -- a comment; its end", {"sku": "D", "qty": -1}),
    lambda chance: ("insert into item (sku, qty) values (:sku, :qty)", {"sku": "E", "qty": None}),
    lambda chance: "insert into item (sku, qty) select 'F', 5 from item where id < 3;",
    lambda chance: "insert into item (sku, qty) values ('semi;colon', 2), ('per%cent', 3)",
    lambda chance: ("update item set qty = qty + :n", {"n": chance.choice([0, 1])}),
    lambda chance: sa.update(ITEM).where(ITEM.c.sku == _sku(chance)).values(qty=ITEM.c.qty - 1),
    lambda chance: ("delete from item where sku in :skus", {"skus": chance.choice([[], ["A"], ["A", "B"]])}),
    lambda chance: sa.delete(ITEM).where(ITEM.c.qty > 6),
    lambda chance: sa.select(ITEM).order_by(ITEM.c.sku),
    lambda chance: sa.select(sa.func.count(), sa.func.max(ITEM.c.price)).select_from(ITEM),
    lambda chance: ("select sku, qty from item where qty >= :n order by sku -- end", {"n": 0}),
    lambda chance: ("select :a as a, :b as b", {"a": "x", "b": 1}),
    lambda chance: "select 1 as one where 1 = 0",
    lambda chance: "select nothing from item",
    lambda chance: "select 1 from no_such_table",
    lambda chance: "select 1 frm item",
]


async def _both(db: Any, statements: list[Any]) -> tuple[Any, Any]:
    """Return what *statements* give one by one in a transaction, and as a batch; each on the same rows."""
    reset = ["delete from item", "delete from named", "insert into item (id, sku, qty) values (1, 'A', 1), (2, 'B', 7)"]

    async def one_by_one() -> Any:
        results = []
        async with db.transaction() as tx:
            for number, each in enumerate(statements):
                statement, params = each if isinstance(each, tuple) else (each, None)
                try:
                    results.append(await tx.execute(statement, params))
                except PrefiqDbError as error:
                    error.statement_index = number
                    raise
        return results

    answers = []
    for run in (one_by_one, lambda: db.batch(statements)):
        for each in reset:
            await db.execute(each)
        try:
            told = [_told(result) for result in await run()]
        except PrefiqDbError as error:
            told = [
                type(error).__name__,
                error.kind,
                error.code,
                error.statement_index,
                error.constraint,
                error.table,
                error.column,
                str(error).removeprefix(f"statements[{error.statement_index}]: "),
            ]
        answers.append((told, [tuple(row)[1:] for row in await db.fetch_all(sa.select(ITEM).order_by(ITEM.c.sku))]))
    return answers[0], answers[1]


def _told(result: Any) -> Any:
    rows = [(row._fields, tuple(row), [type(value) for value in row]) for row in result.rows]
    hidden = [
        [(name, value) for name, value in zip(names, values, strict=True) if name != "id"] for names, values, _ in rows
    ]
    key = result.inserted_primary_key
    # Keys that the server counts up differ from run to run.
    known = key if key is None or isinstance(key[0], str) else [type(each) for each in key]
    return result.rowcount, known, hidden, [types for _, _, types in rows], result.other_rows


@pytest.mark.parametrize("seed", range(3))
async def test_a_batch_is_like_a_transaction(db: Any, backend: Backend, seed: int) -> None:
    for table in (ITEM, NAMED):
        await db.execute(sa.schema.CreateTable(table))
    chance = random.Random(seed)
    failed = 0
    for _ in range(14):
        statements = [make(chance) for make in chance.choices(STATEMENTS, k=chance.randint(1, 6))]
        one_by_one, batch = await _both(db, statements)
        assert batch == one_by_one, [str(each) for each in statements]
        failed += isinstance(batch[0][0], str)
    assert 0 < failed < 14


@pytest.mark.parametrize("number", range(len(STATEMENTS)))
@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)], indirect=True)
async def test_each_statement_alone_and_between_others(db: Any, backend: Backend, number: int) -> None:
    for table in (ITEM, NAMED):
        await db.execute(sa.schema.CreateTable(table))
    made = STATEMENTS[number](random.Random(number))
    write = "update item set qty = 5 where id = 2"
    for statements in ([made], [write, made, "select qty from item order by sku"]):
        one_by_one, batch = await _both(db, statements)
        assert batch == one_by_one
