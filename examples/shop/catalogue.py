"""The shop's statements."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import insert, select

from prefiq_db import Database
from shop.tables import Kind, product


@dataclass(frozen=True)
class Line:
    """A line of the price list."""

    name: str
    kind: Kind
    price: Decimal


def add(db: Database, name: str, kind: Kind, price: Decimal, details: Any = None) -> uuid.UUID:
    """Add a product and return its id."""
    made = uuid.uuid4()
    row = {"id": made, "name": name, "kind": kind, "price": price, "details": details, "added_at": datetime.now(UTC)}
    db.execute(insert(product).values(row))
    return made


def price_list(db: Database, at_most: Decimal) -> Sequence[Line]:
    """Return the products that cost *at_most* that much, the cheapest first."""
    lines = select(product.c.name, product.c.kind, product.c.price).where(product.c.price <= at_most)
    return db.fetch_all(lines.order_by(product.c.price.asc(), product.c.name), into=Line)
