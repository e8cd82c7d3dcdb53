"""Alembic runs this for each command; what it does is in prefiq_db.migrate.environment."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from prefiq_db.migrate import VERSION_TABLE, run
from prefiq_db.types import UtcDateTime


def _byte_text(length: int, kind: type[Any], postgresql: str | None = None) -> sa.String:
    text = sa.String(length).with_variant(kind(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
    return text.with_variant(sa.String(length, collation=postgresql), "postgresql")


#: What the revisions lead to, for ``alembic check``.
METADATA = sa.MetaData()
sa.Table(
    "prefiq_commit_token",
    METADATA,
    sa.Column("token", _byte_text(36, mysql.CHAR, "C"), primary_key=True),
    sa.Column("written_as", _byte_text(16, mysql.VARCHAR, "C"), nullable=False),
    sa.Column("created_at", UtcDateTime(), server_default=sa.func.now(), nullable=False, index=True),
    sa.Column("session", _byte_text(128, mysql.VARCHAR), nullable=True),
)


def _is_ours(name: str | None, kind: str, parents: Any) -> bool:
    return kind != "table" or name in METADATA.tables


run(METADATA, version_table=VERSION_TABLE, include_name=_is_ours, compare_server_default=False)
