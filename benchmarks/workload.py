"""What is measured: the tables, the statements in each driver's spelling, and the rows of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

POINT, SELECT, INSERT, BUILT, TRANSACTION, BUILT_TRANSACTION, MANY_ROWS, TASKS, THREADS = OPERATIONS = (
    "point select",
    "prebuilt select()",
    "insert",
    "built insert()",
    "transaction of 2",
    "built transaction of 2",
    "1,000 rows x 10",
    "64 tasks over 10",
    "32 threads over 10",
)
#: A point select that one listener gets the event of.
LISTENED = "listened-to point select"
TASK_COUNT, THREAD_COUNT, POOL_SIZE = 64, 32, 10
#: How many calls a turn has; of tasks and threads: each of them.
CALLS = {
    POINT: 100, SELECT: 100, INSERT: 60, BUILT: 60, TRANSACTION: 40, BUILT_TRANSACTION: 40, MANY_ROWS: 8, TASKS: 6,
    THREADS: 8,
}  # fmt: skip
#: What depends on the network, measured on the slow link too.
ON_THE_SLOW_LINK = (POINT, INSERT, TRANSACTION, TASKS, THREADS)

METADATA = sa.MetaData()
ITEM = sa.Table(
    "item",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", sa.String(40), nullable=False),
    sa.Column("qty", sa.Integer, nullable=False),
    sa.Column("price", sa.Double, nullable=False),
)
ENTRY = sa.Table(
    "entry",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("item_id", sa.Integer, nullable=False),
    sa.Column("qty", sa.Integer, nullable=False),
    sa.Column("note", sa.String(80)),
)
WIDE_COLUMNS = ("id", "a", "b", "c", "d", "e", "f", "g", "h", "i")
WIDE = sa.Table(
    "wide",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    *(sa.Column(name, sa.Integer, nullable=False) for name in "abc"),
    *(sa.Column(name, sa.Double, nullable=False) for name in "def"),
    *(sa.Column(name, sa.String(40)) for name in "ghi"),
)
ROWS = 1000
PREBUILT = sa.select(ITEM.c.id, ITEM.c.sku, ITEM.c.qty, ITEM.c.price).where(ITEM.c.id == sa.bindparam("id"))

_POINT = "select id, sku, qty, price from item where id = {id}"
_INSERT = "insert into entry (item_id, qty, note) values ({item_id}, {qty}, {note})"
_UPDATE = "update item set qty = qty + {n} where id = {id}"
_WIDE = f"select {', '.join(WIDE_COLUMNS)} from wide"


@dataclass(frozen=True, slots=True)
class Bound:
    """A statement with its values, as a driver takes them: a mapping, or a tuple."""

    sql: str
    values: Any


@dataclass(frozen=True, slots=True)
class Statements:
    point: Bound
    insert: Bound
    updates: tuple[Bound, Bound]
    rows: str


def statements(style: str) -> Statements:
    """Return them with the binds of *style*: ``named`` (``:id``), ``qmark``, ``format`` or ``dollar`` (``$1``)."""

    def bound(sql: str, **values: Any) -> Bound:
        marks = {name: _mark(style, name, number) for number, name in enumerate(values, 1)}
        return Bound(sql.format(**marks), values if style == "named" else tuple(values.values()))

    return Statements(
        bound(_POINT, id=7),
        bound(_INSERT, item_id=7, qty=3, note="a note about the item"),
        (bound(_UPDATE, n=1, id=1), bound(_UPDATE, n=-1, id=2)),
        _WIDE,
    )


def _mark(style: str, name: str, number: int) -> str:
    return {"named": f":{name}", "qmark": "?", "format": "%s", "dollar": f"${number}"}[style]


def built_insert() -> sa.Insert:
    """Return the INSERT as a construct that is built for the call."""
    return sa.insert(ENTRY).values(item_id=7, qty=3, note="a note about the item")


def built_updates() -> tuple[sa.Update, sa.Update]:
    """Return the statements of the transaction as constructs that are built for the call."""
    changes = ((1, 1), (2, -1))
    first, second = (sa.update(ITEM).where(ITEM.c.id == key).values(qty=ITEM.c.qty + n) for key, n in changes)
    return first, second


def item_rows() -> list[Mapping[str, Any]]:
    return [{"id": n, "sku": f"SKU-{n}", "qty": n % 100, "price": n / 8} for n in range(ROWS)]


def wide_rows() -> list[Mapping[str, Any]]:
    return [
        {"id": n}
        | {name: n * (place + 1) for place, name in enumerate("abc")}
        | {name: n / (place + 3) for place, name in enumerate("def")}
        | {name: f"{name} of row {n}" for name in "ghi"}
        for n in range(ROWS)
    ]
