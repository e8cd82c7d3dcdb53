"""prefiq_commit_token.session: which session of which server wrote the row.

MariaDB shows an uncommitted row to whoever asks for it (READ UNCOMMITTED), so a session that says here that it wrote
the token provably holds it, and may be ended when its client is gone. PostgreSQL knows by itself who holds a row, and
SQLite has no sessions: there it stays empty.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLE = "prefiq_commit_token"


def upgrade() -> None:
    text = sa.String(128).with_variant(mysql.VARCHAR(128, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
    op.add_column(TABLE, sa.Column("session", text, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table(TABLE) as table:
        table.drop_column("session")
