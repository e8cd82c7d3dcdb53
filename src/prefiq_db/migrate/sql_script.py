"""``--sql``: write the SQL that a run would send, without a database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MethodType
from typing import Any, cast

import sqlalchemy as sa
from alembic import context
from alembic.ddl.impl import DefaultImpl

from prefiq_db.dialects.offline import OFFLINE, Offline
from prefiq_db.errors import UnsupportedError
from prefiq_db.migrate.history import History
from prefiq_db.migrate.long_ids import refuse_long_ids
from prefiq_db.migrate.traits import traits_of


def write_sql(history: History, dialect: sa.Dialect) -> None:
    """Write the SQL of the running command for a database of this dialect.

    Run on its database, the script has the same result as the command without ``--sql``.

    Raises:
        UnsupportedError: a revision queries the database, or contains a text that can't be written.
    """
    traits = traits_of(dialect.name)
    configured = history.make_configuration(dialect)
    theirs = configured.pop("on_version_apply", ())
    callbacks: Any = (_drop_empty_version_table, *((theirs,) if callable(theirs) else theirs))
    context.configure(
        **configured,
        dialect_name=OFFLINE[dialect.name],
        on_version_apply=callbacks,
        transactional_ddl=not traits.ddl_commits,
        literal_binds=True,
        transaction_per_migration=True,
    )
    running: Any = context.get_context()
    running._migrations_fn = refuse_long_ids(running._migrations_fn)
    impl = running.impl
    impl._exec = MethodType(_write, impl)
    # Alembic's own replacement for a connection would drop the parameters.
    running.connection._execute_impl = lambda construct, parameters=None: impl._exec(construct, None, parameters)
    for statement in impl.dialect.preamble:
        impl.static_output(f"{statement};")
    with context.begin_transaction():
        context.run_migrations()
    if traits.alters_by_rebuild:
        impl.static_output("PRAGMA foreign_key_check;")


def _drop_empty_version_table(ctx: Any, heads: Collection[Any], **_: Any) -> None:
    if not heads:
        ctx._version.drop(ctx.connection)  # as online: base leaves no trace


def _write(
    impl: DefaultImpl,
    construct: Any,
    execution_options: Mapping[str, Any] | None = None,
    multiparams: Any = None,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Write one statement; Alembic's own function would replace each tab by four blanks, in literals too."""
    if multiparams or params:
        raise UnsupportedError(
            "offline SQL: a statement with parameters of its own can't be written; put its values into it: "
            "insert(table).values(...), text(...).bindparams(...)"
        )
    if isinstance(construct, sa.Select | sa.CompoundSelect):
        raise UnsupportedError(
            "offline SQL: a revision asks the database (a SELECT through op.get_bind()), and there is none; write "
            "another statement where op.get_context().as_sql is true, or run this revision online"
        )
    statement: Any = sa.text(construct) if isinstance(construct, str) else construct
    how = {} if isinstance(statement, sa.schema.DDLElement) else {"literal_binds": True}
    compiled = statement.compile(dialect=impl.dialect, compile_kwargs=how)
    impl.static_output(cast("Offline", impl.dialect).terminated(str(compiled)))
