"""Expand: add the new column beside the old one.

This is the first revision, so it creates the table. If release 1 had created it already, this step would be a single
``op.add_column("product", Column("price", Money(), nullable=False, server_default="0.0000"))``.

Both columns have a default, because release 1 doesn't write ``price``, and release 3 doesn't write ``price_cents``.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import prefiq_db.types

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "product",
        sa.Column("id", prefiq_db.types.Uuid(), nullable=False),
        sa.Column("name", sa.String(60), nullable=False),
        # The values, not the enum: a revision must not change when the enum does.
        sa.Column("kind", prefiq_db.types.StrEnum(("tea", "ware")), nullable=False),
        sa.Column("price_cents", sa.Integer(), server_default="0", nullable=False),
        sa.Column("price", prefiq_db.types.Money(), server_default="0.0000", nullable=False),
        sa.Column("details", prefiq_db.types.Json(), nullable=True),
        sa.Column("added_at", prefiq_db.types.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_product")),
        sa.UniqueConstraint("name", name=op.f("uq_product_name")),
    )


def downgrade() -> None:
    op.drop_table("product")
