"""The names of the convention: the same on every database, and none too long for any."""

from __future__ import annotations

import enum
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql, postgresql, sqlite

from prefiq_db.types import (
    ExactDecimal,
    Json,
    Money,
    StrEnum,
    UtcDateTime,
    Uuid,
    misfit_names,
    naming_convention,
)
from prefiq_db.types.naming import MAX_NAME_BYTES, fit_name

DIALECTS = (sqlite.dialect(), postgresql.dialect(), mysql.dialect())
LONG = "a_table_of_a_service_that_says_all_it_is_for_in_its_very_own_name"[:60]


class Status(enum.StrEnum):
    NEW = "new"
    PAID = "paid"


def tables(name: str, naming: dict[str, object] | None = None) -> tuple[sa.MetaData, sa.Table]:
    metadata = sa.MetaData(naming_convention=naming_convention if naming is None else naming)
    sa.Table("customer", metadata, sa.Column("id", sa.Integer, primary_key=True))
    table = sa.Table(
        name,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("customer_id", sa.ForeignKey("customer.id"), index=True),
        sa.Column("first_name", sa.String(20)),
        sa.Column("last_name", sa.String(20)),
        sa.Column("status", StrEnum(Status)),
        sa.Column("is_open", sa.Boolean(create_constraint=True)),
        sa.Column("quantity", sa.Integer),
        sa.UniqueConstraint("first_name", "last_name"),
        sa.CheckConstraint("quantity > 0", name="positive"),
    )
    sa.Index(None, table.c.last_name, table.c.first_name)
    return metadata, table


def names(table: sa.Table) -> set[str]:
    return {str(part.name) for part in (*table.constraints, *table.indexes)}


def ddl(table: sa.Table) -> list[str]:
    """Return what each database would be told of constraints and indexes; SQLAlchemy would shorten names here."""
    told = []
    for dialect in DIALECTS:
        text = str(sa.schema.CreateTable(table).compile(dialect=dialect))
        told.append(
            text + "".join(str(sa.schema.CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)
        )
    return told


def test_constraints_and_indexes_are_named_by_table_and_columns() -> None:
    _, table = tables("sale")
    assert names(table) >= {
        "pk_sale",
        "fk_sale_customer_id_customer",
        "ix_sale_customer_id",
        "ix_sale_last_name_first_name",
        "uq_sale_first_name_last_name",
        "ck_sale_positive",
        "ck_sale_status",
    }
    assert all("ck_sale_is_open" in text for text in ddl(table)[:1])


def test_long_names_are_the_same_on_all_databases_and_fit() -> None:
    metadata, table = tables(LONG)
    assert misfit_names(metadata) == []
    told = [set(re.findall(r"(?:CONSTRAINT|INDEX) (\w+)", text)) for text in ddl(table)]
    on_sqlite, on_postgresql, on_mariadb = ({name for name in names if not is_open(name)} for names in told)
    assert on_sqlite == on_postgresql == on_mariadb | {fit_name(f"pk_{LONG}")}  # a primary key has no name there
    assert len(on_sqlite) == 7
    assert all(len(name.encode()) <= MAX_NAME_BYTES for name in set.union(*told))


def is_open(name: str) -> bool:
    """Return whether it is the CHECK of the boolean, which PostgreSQL doesn't need."""
    return name == fit_name(f"ck_{LONG}_is_open")


@given(st.text(min_size=1, max_size=200))
def test_a_fitted_name_fits_and_short_ones_stay(name: str) -> None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return
    short = fit_name(name)
    assert len(short.encode()) <= MAX_NAME_BYTES
    assert (short == name) is (length <= MAX_NAME_BYTES)
    assert fit_name(short) == short


def test_names_that_begin_alike_stay_different() -> None:
    assert fit_name(LONG + "_one_one_one") != fit_name(LONG + "_one_one_two")
    # Another hash would rename everybody's constraints.
    assert fit_name("x" * 64) == "x" * 54 + "_7ce10097"


def test_a_check_needs_a_name_and_so_does_an_index_without_columns() -> None:
    metadata = sa.MetaData(naming_convention=naming_convention)
    with pytest.raises(sa.exc.InvalidRequestError, match="a CHECK of sale needs a name"):
        sa.Table("sale", metadata, sa.Column("id", sa.Integer), sa.CheckConstraint("id > 0"))


def test_without_the_convention_an_enum_has_the_same_name_for_its_check() -> None:
    _, table = tables("sale", {})
    assert "ck_sale_status" in names(table)
    copied = table.to_metadata(sa.MetaData())
    assert [str(c.name) for c in copied.constraints].count("ck_sale_status") == 1
    _, long = tables(LONG, {})
    _, conventional = tables(LONG)
    check = fit_name(f"ck_{LONG}_status")
    assert check in names(long)
    assert check in names(conventional)


def test_what_does_not_fit_is_told() -> None:
    metadata = sa.MetaData()
    sa.Table(
        "t" * 64,
        metadata,
        sa.Column("c" * 64, sa.Integer, index=True),
        sa.Column("d", sa.Integer),
        sa.UniqueConstraint("d"),
        sa.CheckConstraint("d > 0", name="k" * 64),
    )
    found = misfit_names(metadata)
    assert [line.split(": ")[1].split(" ")[0] for line in found] == sorted(
        ["table", "column", "index", "UniqueConstraint", "CheckConstraint"]
    )
    assert any("without a name" in line for line in found)


# --- column types ----------------------------------------------------------------------------------

MAPPED = (UtcDateTime(), ExactDecimal(12, 2), Money(), Uuid(), Json(), StrEnum(Status))


@pytest.mark.parametrize("type_", MAPPED, ids=lambda type_: type(type_).__name__)
def test_the_docs_map_types_to_columns_as_the_code_does(type_: sa.types.TypeEngine[object]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "layering-alembic.md").read_text("utf-8")
    (row,) = re.findall(rf"^\| `{type(type_).__name__}(?:\(.*?\))?` \| (.*) \|$", page, re.M)
    told = [cell.strip("`") for cell in row.split(" | ")]
    assert told == [type_.compile(dialect=dialect) for dialect in (postgresql.dialect(), mariadb(), sqlite.dialect())]


def mariadb() -> sa.Dialect:
    return sa.make_url("mariadb+pymysql://").get_dialect()()
