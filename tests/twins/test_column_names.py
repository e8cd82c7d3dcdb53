"""``upsert``, ``bulk_insert`` and ``batch`` know a column by each of its names, and names with ``%`` are names."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert as mysql_insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from prefiq_db.errors import UsageError
from tests.twins.support import assert_silent, in_engine_begin

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


# --- other names ---------------------------------------------------------------------------------

part = sa.Table(
    "part",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("part number", sa.String(20), key="number", unique=True, nullable=False),
    sa.Column("values", sa.Integer, key="amount", nullable=False, server_default="0"),
    sa.Column("noted", sa.Integer, key="note", default=5, onupdate=6),
)


class Base(DeclarativeBase):
    pass


class Part(Base):
    """Two of its attributes have the names of each other's columns."""

    __tablename__ = "part"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column("part number", key="number", unique=True)
    noted: Mapped[int] = mapped_column("values", key="amount", server_default="0")
    amount: Mapped[int | None] = mapped_column("noted", key="note")


BY_KEY, BY_NAME = ("number", "amount", "note"), ("part number", "values", "noted")


@pytest.mark.parametrize("names", [BY_KEY, BY_NAME, ("part number", "amount", "noted")], ids=["keys", "names", "mixed"])
async def test_a_columns_key_and_its_name_are_the_same(db: Any, names: tuple[str, str, str]) -> None:
    """In rows, ``key``, ``update``, its functions, ``returning`` and ``columns``; a warning would be an error here."""
    await in_engine_begin(db, part.metadata.create_all)
    number, amount, note = names
    rows = [{number: "A", amount: 1}, {number: "B", amount: 2}]
    added: Any = {amount: lambda stored, given: stored[amount] + given[amount]}
    for update, expected in ((None, 1), (None, 1), (added, 2), ([amount], 1), ({amount: 7, note: 8}, 7), ((), 7)):
        for given in (rows, rows[0]):
            result = await db.upsert(part, given, key=number, update=update, returning=[number, amount])
        assert tuple(result.rows[0]) == ("A", expected if update is not added else 3)
    assert await db.fetch_all(sa.select(part.c.amount, part.c.note).order_by(part.c.number)) == [(7, 8), (7, 8)]
    await db.bulk_insert(part, [{number: "C", amount: 3, note: None}])
    await db.bulk_insert(part, [*rows, {number: "D", amount: 4}], on_conflict="ignore")
    await db.bulk_insert(part, [("A", 9), ("D", 8)], columns=[number, amount], on_conflict="update")
    found = await db.fetch_all(sa.select(part.c.amount).order_by(part.c.number))
    assert [row.amount for row in found] == [9, 7, 3, 8]


async def test_functions_of_an_update_know_every_name(db: Any) -> None:
    """The attributes of an ORM class come first, as in rows; a column may have the name of any method."""
    await in_engine_begin(db, part.metadata.create_all)
    row = {"code": "A", "noted": 10, "amount": 3}
    functions: list[Any] = [
        lambda stored, given: stored.noted + given.noted + given.amount,
        lambda stored, given: stored["values"] + given.values + given["note"],
        lambda stored, given: stored[Part.noted] + given[part.c.amount] + given[Part.amount],
        lambda stored, given: stored[Part.__table__.c.amount] + given["noted"] + given.note,
    ]
    for function in functions:
        await db.upsert(Part, row, key="code", update=())
        await db.execute(sa.update(part).values(amount=100))
        await db.upsert(Part, row, key=Part.code, update={"noted": function})
        assert await db.fetch_value(sa.select(part.c.amount)) == 113
    await db.bulk_insert(Part, [("A", 10, 3)], columns=[Part.code, part.c.amount, "amount"], on_conflict="update")
    assert tuple(await db.fetch_one(sa.select(part.c.amount, part.c.note))) == (10, 3)
    result = await db.upsert(Part, row, key="code", returning=[Part.noted, "amount", Part.__table__.c.note, "values"])
    assert [tuple(each) for each in result.rows] == [(10, 3, 3, 10)]


async def test_an_unknown_name_in_a_function_is_a_mistake_that_is_explained(db: Any) -> None:
    await in_engine_begin(db, part.metadata.create_all)
    functions: list[Any] = [
        lambda stored, given: stored.frog,
        lambda stored, given: given["frog"],
        lambda stored, given: given.amount + given[sa.column("frog")],
    ]
    for function in functions:
        with pytest.raises(UsageError, match=r"^update: part has no column frog; it has id, number, .*noted") as caught:
            await db.upsert(part, {"number": "planted", "amount": 7}, key="number", update={"amount": function})
        assert_silent(caught.value, "planted")
    for function in (lambda stored, given: stored[7], lambda stored, given: given[None]):
        with pytest.raises(UsageError, match=r"update: part has no column <(int|NoneType)>"):
            await db.upsert(part, {"number": "planted", "amount": 7}, key="number", update={"amount": function})
    assert await db.fetch_all(sa.select(part.c.id)) == []
