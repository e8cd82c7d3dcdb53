"""The migration lock: any number of deployers start at once, one migrates, the others wait for it.

One lock per database, whatever history is migrated. Why on a server the migrating session holds it, and why for SQLite
it is a file beside the database: docs/decisions/0020-why-the-migrating-session-holds-the-lock.md.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import sqlalchemy as sa

from prefiq_db.bridge import AsyncRuntime, SyncRuntime
from prefiq_db.deadline import Deadline
from prefiq_db.dialects.engine_parts import limits_of
from prefiq_db.errors import LockTimeoutError, UnsupportedError
from prefiq_db.migrate.migrate_options import MigrateOptions
from prefiq_db.migrate.traits import SessionLock, traits_of

logger = logging.getLogger("prefiq_db.migrate")

# Between two attempts: short enough for a deployment, long enough that eight waiters are no load.
_LOOK_AGAIN_SECONDS: Final = 0.2

_WAY_OUT: Final = (
    "run it again when that one is done, or end it if it hangs; without a lock: --no-lock (alembic: -x lock=no)"
)


class Lock(Protocol):
    """A lock that one deployer holds at a time."""

    def take(self) -> bool:
        """Try to take it, without waiting."""

    def release(self) -> None:
        """Release it; never raises for a lost connection."""

    def holder(self) -> str:
        """Return the holder, for messages; ``""`` if it is free."""


class ServerLock:
    """A lock of the migrating session: it is lost exactly when the session is."""

    def __init__(self, connection: sa.Connection, sql: SessionLock) -> None:
        self.connection = connection
        self.sql = sql
        # In a caller's transaction the work is done only when the caller commits.
        self.until_commit = connection.in_transaction() and bool(sql.take_for_transaction)

    def take(self) -> bool:
        return bool(self._ask(self.sql.take_for_transaction if self.until_commit else self.sql.take))

    def release(self) -> None:
        if self.until_commit or self.connection.invalidated or self.connection.closed:
            return
        try:
            self._ask(self.sql.release)
        except sa.exc.SQLAlchemyError:
            # The session still has the lock, so it must not return to the pool.
            self.connection.invalidate()

    def holder(self) -> str:
        return str(self._ask(self.sql.holder) or "")

    def _ask(self, sql: str) -> object:
        if self.connection.in_transaction():
            return self.connection.exec_driver_sql(sql).scalar()
        # Not left open: during the wait, an old snapshot would hold up CREATE INDEX CONCURRENTLY and purging.
        with self.connection.begin():
            return self.connection.exec_driver_sql(sql).scalar()


@contextlib.contextmanager
def hold(lock: Lock, options: MigrateOptions, database: str, dialect: sa.Dialect) -> Iterator[None]:
    """Hold *lock* in this block.

    Raises:
        LockTimeoutError: another deployer held it for ``options.lock_wait`` seconds; the message names the holder.
    """
    sleep = (AsyncRuntime() if dialect.is_async else SyncRuntime()).sleep
    _take(lock, Deadline.after(options.lock_wait, "lock_wait"), database, sleep)
    try:
        yield
    finally:
        lock.release()


def _take(lock: Lock, deadline: Deadline, database: str, sleep: Callable[[float], None]) -> None:
    told = False
    while not lock.take():
        if deadline.has_passed:
            holder = lock.holder() or "somebody who is gone by now"
            raise LockTimeoutError(
                f"database {database}: the migration lock was not free within {deadline.seconds:g} s; held by "
                f"{holder}; {_WAY_OUT}",
                database=database,
            )
        if not told and (holder := lock.holder()):
            logger.warning("database %s: waiting for the migration lock; held by %s", database, holder)
            told = True
        sleep(min(deadline.left(), _LOOK_AGAIN_SECONDS * random.uniform(0.5, 1.5)))


def server_lock(connection: sa.Connection) -> ServerLock | None:
    """Return the lock of the server behind *connection*; ``None`` for a file."""
    sql = traits_of(connection.dialect.name).session_lock
    return None if sql is None else ServerLock(connection, sql)


def check_lockable(dialect: sa.Dialect, database: str) -> None:
    """Refuse a transaction pooler: it may use another session, and so another lock, for each transaction.

    Raises:
        UnsupportedError: naming the ways out.
    """
    if limits_of(dialect).session_settings:
        return
    raise UnsupportedError(
        f"database {database}: pgbouncer is on, and behind it no lock can be held while migrations run. Migrate with "
        "a direct URL of the server (DB_URL=... DB_PGBOUNCER=false for this command, or a second database in the "
        "settings and --database), or without a lock, if only one deployer runs at a time: --no-lock (alembic: "
        "-x lock=no)",
        database=database,
    )
