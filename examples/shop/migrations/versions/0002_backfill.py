"""Backfill: fill the new column while release 2 writes both.

It works in steps, so that locks are short, and selects only unfilled rows, so that it can be stopped and run again.
"""

from __future__ import annotations

from decimal import Decimal

import sqlalchemy as sa
from alembic import op

import prefiq_db.types

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STEP = 500

# The table as it is at this revision, independent of later changes to shop.tables.
product = sa.table(
    "product",
    sa.column("id", prefiq_db.types.Uuid()),
    sa.column("price_cents", sa.Integer()),
    sa.column("price", prefiq_db.types.Money()),
)
price, cents = product.c.price, product.c.price_cents


def upgrade() -> None:
    if op.get_context().as_sql and op.get_context().dialect.name != "sqlite":
        # Offline (--sql) no rows can be read. The two servers calculate this exactly, SQLite doesn't.
        op.execute(sa.update(product).where(price == 0, cents != 0).values(price=sa.text("price_cents / 100.0")))
        return
    unfilled = sa.select(product.c.id, cents).where(price == 0, cents != 0).limit(STEP)
    fill = sa.update(product).where(product.c.id == sa.bindparam("key")).values(price=sa.bindparam("value"))
    while rows := op.get_bind().execute(unfilled).all():
        op.get_bind().execute(fill, [{"key": row.id, "value": Decimal(row.price_cents) / 100} for row in rows])


def downgrade() -> None:
    unfilled = sa.select(product.c.id, price).where(cents == 0, price != 0).limit(STEP)
    fill = sa.update(product).where(product.c.id == sa.bindparam("key")).values(price_cents=sa.bindparam("value"))
    while rows := op.get_bind().execute(unfilled).all():
        # At least a cent: 0 cents would be selected again, and the loop would never end.
        op.get_bind().execute(fill, [{"key": row.id, "value": int(row.price * 100) or 1} for row in rows])
