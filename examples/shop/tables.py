"""The shop's tables in release 3."""

from __future__ import annotations

import enum

from sqlalchemy import Column, MetaData, String, Table, UniqueConstraint

from prefiq_db.types import Json, Money, StrEnum, UtcDateTime, Uuid, naming_convention


class Kind(enum.StrEnum):
    """What a product is."""

    TEA = "tea"
    WARE = "ware"


metadata = MetaData(naming_convention=naming_convention)

product = Table(
    "product",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(60), nullable=False),
    Column("kind", StrEnum(Kind), nullable=False),
    Column("price", Money, nullable=False, server_default="0.0000"),
    Column("details", Json),
    Column("added_at", UtcDateTime, nullable=False),
    UniqueConstraint("name"),
)
