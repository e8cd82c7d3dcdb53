"""Direct access to a database: past the proxy, and without prefiq_db's verbs."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Any, Protocol

from prefiq_db.errors import UsageError
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.processes import wait_until

_LOCK_SECONDS = 30.0


class Direct(Protocol):
    """One database, queried directly."""

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement in autocommit on a separate connection; return its rows."""

    def wait_until_quiet(self, timeout_seconds: float) -> None:
        """Wait until no session has an open transaction."""


class ServerDatabase:
    """A database of a server."""

    def __init__(self, server: DatabaseServer, database: str) -> None:
        self._server = server
        self._database = database

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self._server.execute(sql, self._database)

    def wait_until_quiet(self, timeout_seconds: float) -> None:
        def is_quiet() -> bool:
            return not self._server.open_transactions(self._database)

        if not wait_until(is_quiet, timeout_seconds=timeout_seconds):
            raise TimeoutError(f"transactions are still open after {timeout_seconds:g} s: what they do is yet unknown")


class SqliteFile:
    """A database in a file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path, timeout=_LOCK_SECONDS, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    def wait_until_quiet(self, timeout_seconds: float) -> None:
        # The writer's lock is free only when every other writer has ended its transaction.
        with closing(sqlite3.connect(self._path, timeout=timeout_seconds, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            connection.execute("rollback")


def direct(where: DatabaseServer | Direct | str | os.PathLike[str], database: str | None) -> Direct:
    """Return the database of a server, or the one in a SQLite file; what can be queried is returned as it is."""
    if isinstance(where, DatabaseServer):
        if database is None:
            raise UsageError("which database of the server? Give its name")
        return ServerDatabase(where, database)
    return SqliteFile(where) if isinstance(where, (str, os.PathLike)) else where
