"""prefiq_commit_token: the row by which an exactly-once transaction proves that it committed.

``token`` is a client-made UUIDv7 as text, ``written_as`` says who wrote it: ``work`` (the transaction itself) or
``abandoned`` (whoever asked about its outcome). ``created_at`` is UTC and is set by the server: the INSERT travels in
the message of BEGIN and stays short, and pruning compares the server's clock with itself, so that a client with a wrong
clock can't lose its proof.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLE = "prefiq_commit_token"
INDEX = "ix_prefiq_commit_token_created_at"


def upgrade() -> None:
    op.create_table(
        TABLE,
        # Compared byte by byte everywhere: a token is no word of any language, and so it sorts by its time.
        sa.Column("token", _byte_text(36, fixed=True), primary_key=True),
        sa.Column("written_as", _byte_text(16), nullable=False),
        sa.Column(
            "created_at",
            # What prefiq_db.types.UtcDateTime reads, spelled out because a revision must not change when a type does.
            # MariaDB's TIMESTAMP ends in 2038, and its DATETIME counts no fractions unless told to.
            sa.DateTime()
            .with_variant(sa.DateTime(timezone=True), "postgresql")
            .with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb"),
            server_default=sa.text(_utc_now(op.get_context().dialect.name)),
            nullable=False,
        ),
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    # prefiq: safe the table is new, so nobody waits; a run that stops between the two is found and goes on by --resume
    op.create_index(INDEX, TABLE, ["created_at"])


def downgrade() -> None:
    op.drop_index(INDEX, table_name=TABLE)
    op.drop_table(TABLE)


def _byte_text(length: int, *, fixed: bool = False) -> sa.String:
    ascii_type = mysql.CHAR if fixed else mysql.VARCHAR
    return (
        sa.String(length)
        .with_variant(ascii_type(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
        .with_variant(sa.String(length, collation="C"), "postgresql")
    )


def _utc_now(dialect: str) -> str:
    return {
        "postgresql": "CURRENT_TIMESTAMP",
        # SQLite's clock gives milliseconds; the zeros complete the form that SQLAlchemy stores and sorts by.
        "sqlite": "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))",
        "mariadb": "(utc_timestamp(6))",
        "mysql": "(utc_timestamp(6))",
    }[dialect]
