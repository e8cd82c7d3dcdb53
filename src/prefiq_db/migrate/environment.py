"""What ``migrations/env.py`` calls: open the configured database and run Alembic's revisions on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from logging.config import fileConfig
from typing import Any, Final

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.util import CommandError

from prefiq_db.engines import make_engine
from prefiq_db.errors import PrefiqDbError, Problem, SettingsError
from prefiq_db.execution.border import Border
from prefiq_db.settings import DatabaseSettings, load_settings

#: The revisions applied are noted here; a service's own Alembic keeps ``alembic_version``.
VERSION_TABLE: Final = "prefiq_alembic_version"

#: Called after each revision, with what it was and the heads that the database has now.
OnApply = Callable[[MigrationInfo, Collection[str]], None]


def run() -> None:
    """Do what the running Alembic command asks for, on the database that was chosen.

    Under the ``alembic`` command that is the one that ``-x db=<name>`` names (default: ``main``) in the environment
    that ``db`` is configured by. A caller may put ``settings`` and ``database`` (its name), or an open ``connection``,
    and ``on_version_apply`` into ``config.attributes``. Mode ``async`` makes no difference: a sync engine is used.
    """
    config = context.config
    if config.config_file_name is not None and config.file_config.has_section("loggers"):
        fileConfig(config.config_file_name, disable_existing_loggers=False, encoding="utf-8")
    failure = None
    try:
        _run(config.attributes)
    except PrefiqDbError as error:
        failure = error
    if failure is None:
        return
    if config.cmd_opts is None:
        raise failure
    raise CommandError(str(failure))  # the alembic command shows its own kind of error without a traceback


def database_settings(name: str) -> DatabaseSettings:
    """Return the settings of the database called *name*, from the environment.

    Raises:
        SettingsError: the settings are wrong, or have no such database.
    """
    databases = load_settings().databases
    if name in databases:
        return databases[name]
    known = ", ".join(databases)
    raise SettingsError([Problem(f"databases.{name}", "a configured database", f"choose one of: {known}")])


def migrate_on(connection: sa.Connection, on_version_apply: OnApply | None = None) -> None:
    """Run the command's revisions on *connection*: every road to a migration ends here.

    Each revision is a transaction with its own version, where the server can do that: PostgreSQL, and SQLite because
    we send our own BEGIN. MariaDB commits at each DDL statement.
    """

    def applied(
        ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
    ) -> None:
        if not heads:
            # Leave no trace: after the last downgrade Alembic would keep its empty table.
            sa.Table(VERSION_TABLE, sa.MetaData()).drop(connection)
        if on_version_apply is not None:
            on_version_apply(step, heads)

    context.configure(
        connection=connection,
        version_table=VERSION_TABLE,
        transactional_ddl=_ddl_is_transactional(connection.dialect),
        transaction_per_migration=True,
        on_version_apply=applied,
    )
    with context.begin_transaction():
        context.run_migrations()


def _run(attributes: dict[str, Any]) -> None:
    on_version_apply = attributes.get("on_version_apply")
    connection = attributes.get("connection")
    if connection is not None:
        migrate_on(connection, on_version_apply)
        return
    name = attributes.get("database") or context.get_x_argument(as_dictionary=True).get("db", "main")
    settings = attributes.get("settings") or database_settings(name)
    if context.is_offline_mode():
        _write_sql(settings)
        return
    engine = make_engine(settings)
    border = Border(name, engine.dialect.name)
    try:
        with border.cross(engine.connect, "connect") as connection:
            failure = border.cross(lambda: _migrate(connection, on_version_apply))
    finally:
        engine.dispose()
    if failure is not None:
        raise failure


def _migrate(connection: sa.Connection, on_version_apply: OnApply | None) -> Exception | None:
    """Return what is no error of the database: a wrong revision id, a bug in a revision. The border would rename it."""
    try:
        migrate_on(connection, on_version_apply)
    except (sa.exc.SQLAlchemyError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - revisions are anybody's code; raised by the caller
        return error
    return None


def _write_sql(settings: DatabaseSettings) -> None:
    dialect = make_engine(settings).dialect
    context.configure(
        dialect_name=dialect.name,
        version_table=VERSION_TABLE,
        transactional_ddl=_ddl_is_transactional(dialect),
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _ddl_is_transactional(dialect: sa.Dialect) -> bool | None:
    """Return what our dialect knows better than Alembic; ``None`` for a connection of somebody else's engine."""
    ddl_commits: bool | None = getattr(dialect, "ddl_commits", None)
    return None if ddl_commits is None else not ddl_commits
