"""Functions for an ``env.py``: open the configured databases and run the Alembic command on each."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from logging.config import fileConfig
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from prefiq_db.dialects.engine_parts import limits_of
from prefiq_db.engines import make_engine
from prefiq_db.errors import PrefiqDbError, Problem, SettingsError, UnsupportedError, UsageError
from prefiq_db.migrate.file_lock import FileLock, file_lock
from prefiq_db.migrate.history import History
from prefiq_db.migrate.locks import Lock, check_lockable, hold, server_lock
from prefiq_db.migrate.migrate_options import MigrateOptions
from prefiq_db.migrate.run import OnApply, Run, look_on, migrate_on
from prefiq_db.migrate.sql_script import write_sql
from prefiq_db.settings import DatabaseSettings, load_settings
from prefiq_db.translation.border import Border
from prefiq_db.urls import MEMORY

_AS_MODULE: Final = ("alembic", "__main__.py")

#: In ``config.attributes``: the name of the database that was migrated last.
MIGRATED: Final = "prefiq_database"

#: In ``config.attributes``: whether the ``env.py`` called :func:`run`, so that the other attributes took effect.
HEARD: Final = "prefiq_heard"


def run(
    target_metadata: Any = None,
    *,
    database: str | None = None,
    version_table: str = "alembic_version",
    version_table_schema: str | None = None,
    **configure: Any,
) -> None:
    """Run the current Alembic command; this is the only call that an ``env.py`` needs.

    Args:
        target_metadata: the MetaData of your tables, or a list of them; ``check`` and autogenerate compare with it.
        database: the configured database that has these tables; a request for another one is then refused.
            Default: the requested one, or ``main``.
        version_table: the table that records this history's revisions.
        version_table_schema: the schema of that table.
        configure: further arguments of Alembic's ``context.configure``.

    Under the ``alembic`` command, ``-x db=<name>`` names the database (default: *database*, or ``main``; ``-x db=all``:
    every one); its settings come from the environment, as those of ``db`` do. Further ``-x`` arguments are the fields
    of :class:`~prefiq_db.migrate.MigrateOptions`. A caller may put ``settings``, ``database`` (its name), ``options``
    and ``on_version_apply`` into ``config.attributes``, or a ``connection``: an engine, an
    :class:`~sqlalchemy.ext.asyncio.AsyncEngine` where no event loop runs, or an open connection (of an async engine: by
    ``run_sync``). Mode ``async`` makes no difference: a sync engine is used. The ini file configures logging in the
    ``alembic`` command alone.
    """
    config = context.config
    config.attributes[HEARD] = True
    by_command_line = config.cmd_opts is not None
    if _is_alembic_command() and config.config_file_name is not None and config.file_config.has_section("loggers"):
        fileConfig(config.config_file_name, disable_existing_loggers=False, encoding="utf-8")
    failure = None
    try:
        _run(History(target_metadata, version_table, version_table_schema, configure, database), config.attributes)
    except PrefiqDbError as error:
        failure = error
    if failure is None:
        return
    if not by_command_line:
        raise failure
    raise CommandError(str(failure))  # the alembic command shows its own kind of error without a traceback


def _is_alembic_command() -> bool:
    """Return whether this process is the ``alembic`` command, which may configure logging.

    ``cmd_opts`` doesn't tell: it is also set in a service that calls ``alembic.config.main(argv)`` or Flask-Migrate.
    """
    program = Path(sys.argv[0])
    return "alembic" in (program.stem, program.stem.removesuffix("-script")) or program.parts[-2:] == _AS_MODULE


def configured_databases() -> dict[str, DatabaseSettings]:
    """Return the settings of every database that Alembic can migrate, from the environment."""
    return {name: each for name, each in load_settings().databases.items() if each.target.product.has_migrations}


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


# --- the request --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call:
    """The request of the caller or of the ``-x`` arguments: a given connection, or databases to open."""

    options: MigrateOptions
    on_version_apply: OnApply | None
    database: str
    connection: Any = None
    databases: Mapping[str, DatabaseSettings] = field(default_factory=dict)


def _run(history: History, attributes: dict[str, Any]) -> None:
    call = _call(history, attributes)
    if call.connection is not None:
        _on_given(Run(history, call.database, call.options, call.on_version_apply), call.connection)
    for name, settings in call.databases.items():
        attributes[MIGRATED] = name
        if context.is_offline_mode():
            write_sql(history, make_engine(settings).dialect)
        else:
            _on_configured(Run(history, name, call.options, call.on_version_apply), settings)


def _call(history: History, attributes: dict[str, Any]) -> _Call:
    arguments = {str(key): str(value) for key, value in context.get_x_argument(as_dictionary=True).items()}
    name = history.choose_database(attributes.get("database") or arguments.get("db"))
    options = attributes.get("options") or MigrateOptions.from_x(arguments)
    call = _Call(options, attributes.get("on_version_apply"), name, attributes.get("connection"))
    if call.connection is not None:
        return call
    if "settings" in attributes:
        databases = {name: attributes["settings"]}
    else:
        databases = configured_databases() if name == "all" else {name: database_settings(name)}
    return _Call(options, call.on_version_apply, name, None, databases)


def _check_writable(read_only: bool, database: str) -> None:
    if read_only and _changes_revisions():
        raise UnsupportedError(
            f"migrations write, and the settings of database {database} say read_only: migrate with DB_READ_ONLY=no (or"
            " DATABASES__<NAME>__READ_ONLY=no) for this command, or through a database of the settings that may write"
        )


def _changes_revisions() -> bool:
    # Alembic has no public way to ask this before the environment is configured, and by then we must hold the lock.
    return "destination_rev" in context._proxy.context_opts  # type: ignore[attr-defined]


# --- a connection and a lock -------------------------------------------------------------------------


def _on_configured(run: Run, settings: DatabaseSettings) -> None:
    _check_writable(settings.read_only, run.database)
    engine = make_engine(_adapt_settings(settings, run.options), name=run.database)
    border = Border(run.database, engine.dialect.name, masked=settings.masked, migrating=True)
    in_file = settings.target.product.is_file and settings.target.database != MEMORY

    def work() -> Exception | None:
        # Before connecting, which may already write, to switch the file to write-ahead logging.
        file = FileLock(settings.target.database) if in_file else None
        with _hold_lock(file, run, engine.dialect), border.cross(engine.connect, "connect") as connection:
            return _work(connection, run, server_lock(connection))

    try:
        failure = _name_failed_place(run, lambda: border.cross(work))
    finally:
        engine.dispose()
    if failure is not None:
        raise failure


def _on_given(run: Run, given: Any) -> None:
    if isinstance(given, AsyncEngine) and not _in_a_loop():
        asyncio.run(_on_async(run, given))
        return
    with _open(given) as connection:
        _on_connection(run, connection)


def _on_connection(run: Run, connection: sa.Connection) -> None:
    _check_writable(limits_of(connection.dialect).read_only, run.database)
    border = Border(run.database, connection.dialect.name, migrating=True)
    lock = server_lock(connection) or file_lock(connection)
    failure = _name_failed_place(run, lambda: border.cross(lambda: _work(connection, run, lock)))
    if failure is not None:
        raise failure


async def _on_async(run: Run, engine: AsyncEngine) -> None:
    try:
        async with engine.connect() as connection:
            await connection.run_sync(lambda each: _on_connection(run, each))
    finally:
        await engine.dispose()  # its connections belong to this loop, which ends


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _open(given: Any) -> Iterator[sa.Connection]:
    if isinstance(given, sa.Connection):
        yield given
        return
    # An engine, or a stand-in for one: tests of migrations keep one connection behind it.
    with given.connect() if _connects(given) else nullcontext() as connection:
        if not isinstance(connection, sa.Connection):
            raise UsageError(
                f"config.attributes['connection']: expected a Connection or Engine, not {type(given).__name__}; with "
                "an async one in its loop: await connection.run_sync(function), and put what the function gets there"
            )
        yield connection


def _connects(given: Any) -> bool:
    return callable(getattr(given, "connect", None)) and not isinstance(given, (AsyncEngine, AsyncConnection))


def _work(connection: sa.Connection, run: Run, lock: Lock | None) -> Exception | None:
    """Return a non-database error (a wrong revision id, a bug in a revision), which a border would hide."""
    try:
        with _hold_lock(lock, run, connection.dialect):
            act: Callable[[sa.Connection, Run], None] = migrate_on if _changes_revisions() else look_on
            act(connection, run)
    except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError, PrefiqDbError, connection.dialect.loaded_dbapi.Error):
        raise
    except Exception as error:  # noqa: BLE001 - a revision may raise anything; the caller raises it
        return error
    return None


def _name_failed_place(run: Run, act: Callable[[], Exception | None]) -> Exception | None:
    """Run *act*; add to a database error's message where it happened and what it left behind."""
    try:
        return act()
    except PrefiqDbError as error:
        if run.failed_at and run.failed_at[0] and error.original is not None:
            error.args = ("\n".join([run.failed_at[0], str(error), *run.left_behind]),)
        raise


def _hold_lock(lock: Lock | None, run: Run, dialect: sa.Dialect) -> Any:
    if lock is None or not run.options.lock or not _changes_revisions():
        return nullcontext()
    check_lockable(dialect, run.database)
    return hold(lock, run.options, run.database, dialect)


def _adapt_settings(settings: DatabaseSettings, options: MigrateOptions) -> DatabaseSettings:
    """Return the settings with the time limits of migrations, and an application name for the lock's holder."""
    return settings.replace(
        lock_timeout_seconds=options.lock_timeout,
        statement_timeout_seconds=options.statement_timeout,
        application_name=f"{settings.application_name[:24]} migrate, pid {os.getpid()} on {socket.gethostname()}"[:63],
    )
