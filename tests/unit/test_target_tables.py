"""The table that rows go into: given as a Table, an ORM class or a name."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from prefiq_db.errors import SchemaError, SubKind, UsageError
from prefiq_db.execution.target_tables import TargetTables, UniqueKey, reflect_on, unique_keys

METADATA = sa.MetaData()
ITEM = sa.Table(
    "item",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku_code", sa.String(20), key="sku", unique=True),
    sa.Column("shop", sa.Integer),
    sa.Column("place", sa.Integer),
    sa.UniqueConstraint("shop", "place", name="uq_place"),
)
sa.Index("ux_shop_sku", ITEM.c.shop, ITEM.c.sku, unique=True)
sa.Index("ux_upper", sa.func.upper(ITEM.c.sku), unique=True)
sa.Index("ux_some", ITEM.c.place, unique=True, sqlite_where=ITEM.c.shop > 1)


class Base(DeclarativeBase):
    pass


class Animal(Base):
    __tablename__ = "animal"
    number: Mapped[int] = mapped_column("animal_id", primary_key=True)
    name: Mapped[str]


class Dog(Animal):
    __tablename__ = "dog"
    number: Mapped[int] = mapped_column("dog_id", sa.ForeignKey("animal.animal_id"), primary_key=True)
    tail: Mapped[int]


def never(schema: str | None, name: str) -> sa.Table:
    raise AssertionError("nothing to look up")


def test_a_table_is_known_by_keys_and_names() -> None:
    target = TargetTables().resolve(ITEM, never)
    assert target.table is ITEM
    assert target.column("sku") is target.column("sku_code") is ITEM.c.sku


def test_an_unknown_column_is_named_with_those_that_exist() -> None:
    with pytest.raises(UsageError, match="item has no column colour; it has id, sku, shop, place, sku_code") as caught:
        TargetTables().resolve(ITEM, never).column("colour")
    assert caught.value.sub_kind is SubKind.MISSING


def test_an_orm_class_is_known_by_its_attributes() -> None:
    target = TargetTables().resolve(Animal, never)
    assert target.table is Animal.__table__
    assert target.column("number").name == "animal_id"
    assert target.column("animal_id").name == "animal_id"


def test_a_class_of_joined_tables_has_its_own_table_only() -> None:
    target = TargetTables().resolve(Dog, never)
    assert target.table is Dog.__table__
    assert target.column("number").name == "dog_id"
    with pytest.raises(UsageError, match="dog has no column name"):
        target.column("name")


@pytest.mark.parametrize("given", [int, 5, sa.select(ITEM), ITEM.alias(), Animal(), None])
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="table: expected a Table, an ORM class mapped to one, or a table's name"):
        TargetTables().resolve(given, never)


@pytest.mark.parametrize("name", ["", ".item", "sales.", "item\0", "x" * 300])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="table: expected a table's name"):
        TargetTables().resolve(name, never)


def test_unique_keys_are_those_that_columns_can_name() -> None:
    assert unique_keys(ITEM) == (
        UniqueKey(None, ("id",), is_primary=True),
        UniqueKey("uq_place", ("shop", "place")),
        UniqueKey("ux_shop_sku", ("shop", "sku")),
        UniqueKey(None, ("sku",)),
    )


def test_a_name_is_looked_up_once() -> None:
    asked: list[tuple[str | None, str]] = []

    def reflect(schema: str | None, name: str) -> sa.Table:
        asked.append((schema, name))
        return sa.Table(name, sa.MetaData(), sa.Column("a", sa.Integer), schema=schema)

    tables = TargetTables()
    first = tables.resolve("sales.item", reflect)
    assert tables.resolve("sales.item", reflect).table is first.table
    assert tables.resolve("item", reflect).table is not first.table
    assert asked == [("sales", "item"), (None, "item")]
    tables.forget(first)
    tables.resolve("sales.item", reflect)
    assert asked[2:] == [("sales", "item")]


def test_a_bounded_number_of_tables_is_remembered() -> None:
    tables = TargetTables()
    for number in range(1000):
        tables.resolve(f"t{number}", lambda schema, name: sa.Table(name, sa.MetaData(), sa.Column("a", sa.Integer)))
    assert len(tables._reflected.kept) <= 256


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_names_and_keys_are_read_from_the_database() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        METADATA.create_all(connection)
        connection.execute(sa.text('create table "Odd; name" ("a ""b" int unique)'))
        tables, reflect = TargetTables(), reflect_on(connection)
        target = tables.resolve("item", reflect)
        assert target.is_reflected
        assert [key.columns for key in target.unique_keys()] == [
            ("id",), ("shop", "place"), ("shop", "sku_code"), ("sku_code",),
        ]  # fmt: skip
        assert tables.reflected(tables.resolve(ITEM, reflect), reflect) is target.table
        assert tables.resolve("Odd; name", reflect).column('a "b').name == 'a "b'
        with pytest.raises(SchemaError, match=r"there is no table main\.itemm") as caught:
            tables.resolve("main.itemm", reflect)
    assert (caught.value.table, caught.value.sub_kind) == ("itemm", SubKind.MISSING)
    assert caught.value.__context__ is None
    engine.dispose()
