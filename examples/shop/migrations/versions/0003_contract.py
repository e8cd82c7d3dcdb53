"""Contract: drop the old column when only release 3 runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # prefiq: safe release 3 doesn't know price_cents, and nothing older runs since 2024-03-01
    op.drop_column("product", "price_cents")


def downgrade() -> None:
    op.add_column("product", sa.Column("price_cents", sa.Integer(), server_default="0", nullable=False))
