"""Tables, statements and report of the ledger, shared by its sync and async programs.

A small shop sells tea. It receives goods in the warehouse, moves some to the shop, and sells them from there.
The statements are SQLAlchemy Core, the same on SQLite, PostgreSQL and MariaDB.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import (
    Column,
    ForeignKey,
    Insert,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Update,
    insert,
    select,
    update,
)

from prefiq_db.settings import load_settings
from prefiq_db.types import ExactDecimal, UtcDateTime

# --- tables --------------------------------------------------------------------------------------

# Each run has its own prefix, so that on a shared server it touches no other tables and can drop its own.
_PREFIX = f"ledger_example_{secrets.token_hex(3)}"

metadata = MetaData()

item = Table(
    f"{_PREFIX}_item",
    metadata,
    Column("sku", String(20), primary_key=True),
    Column("name", String(60), nullable=False),
    Column("price", ExactDecimal(12, 2), nullable=False),
)

stock = Table(
    f"{_PREFIX}_stock",
    metadata,
    Column("place", String(20), primary_key=True),
    Column("sku", ForeignKey(item.c.sku), primary_key=True),
    Column("on_hand", Integer, nullable=False),
)

order_line = Table(
    f"{_PREFIX}_order_line",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("customer", String(40), nullable=False),
    Column("sku", ForeignKey(item.c.sku), nullable=False),
    Column("quantity", Integer, nullable=False),
    Column("amount", ExactDecimal(12, 2), nullable=False),
    Column("placed_at", UtcDateTime, nullable=False),
)

# --- data ----------------------------------------------------------------------------------------

ITEMS = [
    {"sku": "TEA", "name": "Green tea, 100 g", "price": Decimal("4.90")},
    {"sku": "CUP", "name": "Cup", "price": Decimal("7.50")},
    {"sku": "POT", "name": "Tea pot", "price": Decimal("39.00")},
]
RECEIVED = [
    {"place": "warehouse", "sku": "TEA", "on_hand": 40},
    {"place": "warehouse", "sku": "CUP", "on_hand": 24},
    {"place": "warehouse", "sku": "POT", "on_hand": 3},
]
SHOP = [{"place": "shop", "sku": entry["sku"], "on_hand": 0} for entry in ITEMS]
MOVES = [("TEA", 15), ("CUP", 12), ("POT", 2)]
ORDERS = {
    "Ada": [("TEA", 2), ("POT", 1)],
    "Ben": [("TEA", 5), ("CUP", 500)],  # too many cups: the whole order is rolled back, the tea too
    "Eve": [("CUP", 4)],
}


@dataclass(frozen=True)
class StockLine:
    """How much of an item is at one place."""

    name: str
    place: str
    on_hand: int


@dataclass(frozen=True)
class OrderLine:
    """One sold item."""

    customer: str
    name: str
    quantity: int
    amount: Decimal
    placed_at: datetime


class OutOfStockError(Exception):
    """A place has less of an item than was asked for."""

    def __init__(self, sku: str, quantity: int) -> None:
        super().__init__(f"fewer than {quantity} x {sku} in stock")


# --- statements ----------------------------------------------------------------------------------

RECEIVE_ITEMS = insert(item)
RECEIVE_STOCK = insert(stock)


def take(place: str, sku: str, quantity: int) -> Update:
    """Take goods from a place if enough are there; if not, the row count is 0.

    Check and change are one statement, so no other transaction can change the row in between.
    """
    return (
        update(stock)
        .where(stock.c.place == place, stock.c.sku == sku, stock.c.on_hand >= quantity)
        .values(on_hand=stock.c.on_hand - quantity)
    )


def put(place: str, sku: str, quantity: int) -> Update:
    """Add goods to a place."""
    return update(stock).where(stock.c.place == place, stock.c.sku == sku).values(on_hand=stock.c.on_hand + quantity)


def price_of(sku: str) -> Select[Decimal]:
    """Look up a price."""
    return select(item.c.price).where(item.c.sku == sku)


def sell(customer: str, sku: str, quantity: int, price: Decimal) -> Insert:
    """Record one sold item."""
    return insert(order_line).values(
        customer=customer, sku=sku, quantity=quantity, amount=price * quantity, placed_at=datetime.now(UTC)
    )


STOCK_LINES = (
    select(item.c.name, stock.c.place, stock.c.on_hand)
    .join(stock, stock.c.sku == item.c.sku)
    .order_by(item.c.name, stock.c.place.desc())
)
ORDER_LINES = (
    select(order_line.c.customer, item.c.name, order_line.c.quantity, order_line.c.amount, order_line.c.placed_at)
    .join(item, item.c.sku == order_line.c.sku)
    .order_by(order_line.c.id)
)

# --- report --------------------------------------------------------------------------------------


def report(stock_lines: Iterable[StockLine], order_lines: Sequence[OrderLine]) -> str:
    """Return the report as text."""
    lines = ["", "Stock"]
    lines += [f"  {line.name:<18} {line.place:<10} {line.on_hand:>4}" for line in stock_lines]
    lines += ["", "Orders"]
    lines += [f"  {line.customer:<5} {line.quantity:>3} x {line.name:<18} {line.amount:>8}" for line in order_lines]
    lines.append(f"  {'total':<30} {sum((line.amount for line in order_lines), Decimal(0)):>8}")
    return "\n".join(lines)


# --- where it lives ------------------------------------------------------------------------------


def place_for(folder: str) -> dict[str, str]:
    """Return settings for a SQLite file in *folder*, or none if the user's settings name a database.

    By default prefiq_db uses ``app.db`` in the working directory, but an example should leave no file behind.
    """
    settings = load_settings().database
    if settings.engine != "sqlite" or settings.url is not None or settings.name is not None:
        return {}
    return {"name": str(Path(folder, "ledger.db"))}
