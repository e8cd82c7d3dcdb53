"""``--sql``: write what a run would send, without a database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from prefiq_db.migrate.history import History
from prefiq_db.migrate.kinds import SQLITE, kind_of


def write_sql(history: History, dialect: sa.Dialect) -> None:
    """Write the SQL of the running command for a database of this dialect."""
    kind = kind_of(dialect.name)
    context.configure(
        **history.configured(dialect),
        dialect_name=dialect.name,
        transactional_ddl=not kind.ddl_commits,
        literal_binds=True,
        transaction_per_migration=True,
    )
    impl = context.get_context().impl
    if kind is SQLITE:
        impl.static_output("PRAGMA foreign_keys = OFF;")
    with context.begin_transaction():
        context.run_migrations()
    if kind is SQLITE:
        impl.static_output("PRAGMA foreign_key_check;")
