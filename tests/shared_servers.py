"""The servers that all tests share: they empty a database after each test over a session that stays.

For PostgreSQL a new session costs ten times what emptying does: a process, and all that it must learn of the catalog.
The one that stays is in the database, so questions about its sessions leave it out, see ``NOT_OURS``.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, Final

from prefiq_db.testing import MariaDbServer, PostgresServer
from prefiq_db.testing.postgresql_server import _EMPTY

_NAME: Final = "prefiq_db tests: emptying"
#: for a question about ``pg_stat_activity``
NOT_OURS: Final = f"application_name <> '{_NAME}'"


class SharedPostgres(PostgresServer):
    """A PostgreSQL with one session for each of the databases that it empties."""

    _sessions_sql: ClassVar[str] = PostgresServer._sessions_sql.replace(" where ", f" where {NOT_OURS} and ")
    _open_transactions_sql: ClassVar[str] = PostgresServer._open_transactions_sql.replace(
        " where ", f" where {NOT_OURS} and "
    )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._kept: dict[str, Any] = {}

    def _empty(self, database: str) -> None:
        import psycopg

        if database in self._kept:
            try:
                self._kept[database].execute(_EMPTY)
            except psycopg.OperationalError:  # the test has ended all sessions
                self._kept.pop(database).close()
            else:
                return
        self._kept[database] = self.connect(database)
        self._kept[database].execute(f"set application_name = '{_NAME}'")
        self._kept[database].execute(_EMPTY)

    def _drop(self, database: str) -> None:
        if database in self._kept:
            self._kept.pop(database).close()
        super()._drop(database)

    def close(self) -> None:
        if os.getpid() == self._owner_pid:  # in a forked child they are the parent's
            for connection in self._kept.values():
                connection.close()
            self._kept.clear()
        super().close()


class SharedMariaDb(MariaDbServer):
    """A MariaDB that empties databases over one session, which is in none of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._kept: Any = None

    def _empty(self, database: str) -> None:
        if self._kept is None:
            self._kept = self.connect()
        with self._kept.cursor() as cursor:
            cursor.execute("select id from information_schema.processlist where db = %s", [database])
            # DROP DATABASE waits for every open transaction in it, by default for a day.
            for (session,) in cursor.fetchall():
                self._end_session(session)
            cursor.execute(f"drop database if exists `{database}`")
            cursor.execute(f"create database `{database}` character set utf8mb4")

    def close(self) -> None:
        if self._kept is not None and os.getpid() == self._owner_pid:
            self._kept.close()
            self._kept = None
        super().close()
