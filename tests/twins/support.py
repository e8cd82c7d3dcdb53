"""What several test files need: SQL that differs per database, a look at the server, both worlds' engines as one."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlsplit

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncEngine

from prefiq_db.bridge import spawn
from prefiq_db.engines import make_engine
from prefiq_db.migrate import migrations_directory
from prefiq_db.settings import DatabaseSettings
from tests.conftest import Backend

T = TypeVar("T")

CREATE_STOCK = "create table stock (id integer primary key, quantity integer not null)"
INSERT_STOCK = "insert into stock (id, quantity) values (:id, :quantity)"
COUNT_STOCK = "select count(*) from stock"

_SESSION_ID = {"postgresql": "select pg_backend_pid()", "mariadb": "select connection_id()"}
_KILL = {"postgresql": "select pg_terminate_backend({})", "mariadb": "kill {}"}
_WAITING = {
    "postgresql": "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = {}",
    # innodb_trx would tell whose wait it is, but looking at it often keeps its old picture alive.
    "mariadb": "select variable_value from information_schema.global_status "
    "where variable_name = 'innodb_row_lock_current_waits' and 0 < {}",
}
_RUNNING = {
    "postgresql": "select count(*) from pg_stat_activity where state = 'active' and pid = {}",
    "mariadb": "select count(*) from information_schema.processlist where state = 'User sleep' and id = {}",
}
_SLOW = {
    "sqlite": "with recursive t(n) as (select 1 union all select n + 1 from t where n < 400000000) "
    "select count(*) from t",
    "postgresql": "select pg_sleep(60)",
    "mariadb": "select sleep(60)",
}


def slow_read(backend: Backend) -> str:
    """Return a SELECT that takes far longer than any test."""
    return _SLOW[backend.name]


async def session_id(executor: Any, backend: Backend) -> int:
    """Return the server's number for the connection that *executor* (a database or transaction) uses now."""
    return int(await executor.fetch_value(_SESSION_ID[backend.name]))


def kill_session(backend: Backend, session: int) -> None:
    """End a connection from the server's side, as a failover or an administrator would."""
    assert backend.server is not None
    backend.server.execute(_KILL[backend.name].format(session))


async def is_waiting_for_lock(backend: Backend, session: int) -> bool:
    """Return whether, on the server's word, *session* waits for a lock."""
    assert backend.server is not None
    return int(backend.server.execute(_WAITING[backend.name].format(session))[0][0]) > 0


async def is_sleeping(backend: Backend, session: int) -> bool:
    """Return whether, on the server's word, *session* is carrying out :func:`slow_read`."""
    assert backend.server is not None
    return bool(backend.server.execute(_RUNNING[backend.name].format(session))[0][0])


async def on_engine(db: Any, work: Callable[[sa.Connection], T], **options: Any) -> T:
    """Run *work* on a connection of ``db.engine``, without ``begin()``."""
    engine = db.engine
    if isinstance(engine, AsyncEngine):
        async with engine.connect() as connection:
            if options:
                await connection.execution_options(**options)
            return await connection.run_sync(work)
    with engine.connect() as connection:
        return work(connection.execution_options(**options))


async def in_engine_begin(db: Any, work: Callable[[sa.Connection], T]) -> T:
    """Run *work* inside ``db.engine.begin()``."""
    engine = db.engine
    if isinstance(engine, AsyncEngine):
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    with engine.begin() as connection:
        return work(connection)


async def in_thread_or_task(world: str, work: Callable[[], Awaitable[Any]]) -> Any:
    """Run *work* elsewhere with the context of the caller: in a task, or in a thread as ``asyncio.to_thread`` does."""
    if world == "async":
        return await asyncio.create_task(_awaited(work))
    import contextvars
    import threading

    outcome: list[Any] = []

    def run() -> None:
        from tests.twins.harness import drive

        try:
            outcome.append(drive(_awaited(work)))
        except BaseException as error:
            outcome.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,))
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def within_sqlite(backend: Any, values: Iterable[Any]) -> list[Any]:
    """Return *values* without the decimals of more than 15 digits where the database is SQLite, which refuses them."""
    if backend.name != "sqlite":
        return list(values)
    return [value for value in values if not isinstance(value, Decimal) or len(value.as_tuple().digits) <= 15]


def assert_silent(error: BaseException, *values: str) -> None:
    """Check that nothing of *values* can be read from *error*, and that no driver's error hangs on it."""
    shown = f"{error} {error!r} {error.__dict__} {error.args}"
    for value in values:
        assert value not in shown
    assert error.__cause__ is None
    assert error.__context__ is None


#: What the shipped migrations send to each kind of database, found out by the first upgrade.
_SENT: dict[str, list[str]] = {}
_CHANGES = ("CREATE", "ALTER", "INSERT", "UPDATE", "DROP", "DELETE")


def upgrade_schema(backend: Backend) -> None:
    """Bring an empty database to where the shipped migrations end.

    The first one of each kind is migrated, and the others are sent what that one was: it takes a tenth of the time.
    """
    if backend.name not in _SENT:
        _SENT[backend.name] = migrate(backend)
        return
    if backend.server is None:
        with closing(sqlite3.connect(backend.url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute("pragma journal_mode = wal")
            connection.executescript(f"begin immediate; {'; '.join(_SENT['sqlite'])}; commit")
        return
    statements = _SENT[backend.name]
    database = urlsplit(backend.url).path.removeprefix("/")
    for text in ["; ".join(statements)] if backend.name == "postgresql" else statements:
        backend.server.execute(text, database)


def migrate(backend: Backend) -> list[str]:
    """Run the shipped migrations; return the statements that changed something."""
    sent: list[str] = []
    engine = make_engine(DatabaseSettings(url=backend.direct_url), name="upgrade")

    @sa.event.listens_for(engine, "before_cursor_execute")
    def keep(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        # The log of a run is gone when all went well.
        if statement.lstrip().upper().startswith(_CHANGES) and "prefiq_migration_log" not in statement:
            assert not parameters, f"it can't be sent again as a text: {statement}"
            sent.append(statement)

    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()
    return sent


async def on_sync_engine(db: Any, work: Callable[[sa.Engine], T]) -> T:
    """Run *work*, written in SQLAlchemy's synchronous words, on the engine of either world."""
    engine = db.engine
    if isinstance(engine, AsyncEngine):
        return await spawn(work, engine.sync_engine)
    return work(engine)


def let_the_picture_grow_old(backend_name: str) -> None:
    """Wait before a look at MariaDB's ``innodb_trx``, which makes a new picture only when nobody looked for 0.1 s.

    A quicker poll sees for ever what it saw first.
    """
    if backend_name == "mariadb":
        time.sleep(0.15)
