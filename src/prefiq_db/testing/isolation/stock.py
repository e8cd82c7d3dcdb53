"""The databases of one worker's session: a migrated template, and the copies of it that tests get."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from prefiq_db.database import Database
from prefiq_db.errors import PrefiqDbError, UsageError
from prefiq_db.testing.database_names import DATABASE_PREFIX, new_database_name
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.isolation.copying_mariadb import Template
from prefiq_db.testing.isolation.past_commits import (
    Change,
    MariadbWatch,
    PostgresqlWatch,
    SqliteWatch,
    Watch,
)
from prefiq_db.testing.servers import SERVERS

#: Brings an empty database to where the tests begin.
Migrate = Callable[[Database], None]

__all__ = ["Change", "Migrate", "Stock", "make_stock"]


class Stock(ABC):
    """The databases of one kind in this session.

    Attributes:
        name: ``sqlite``, ``postgresql`` or ``mariadb``.
        template: the migrated database, which nothing writes to.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.template = ""

    def fill(self, migrate: Migrate) -> None:
        """Make the template, and migrate it."""
        self.template = self._make()
        with Database(self.url(self.template)) as db:
            migrate(db)

    @abstractmethod
    def url(self, database: str) -> str:
        """Return the URL of one of the databases."""

    @abstractmethod
    def _make(self) -> str:
        """Make an empty database and return its name."""

    @abstractmethod
    def copy(self) -> str:
        """Copy the template, and return the name of the copy."""

    @abstractmethod
    def drop(self, database: str) -> None:
        """Give a copy back, whoever is connected to it."""

    @abstractmethod
    def watch(self, database: str) -> Watch:
        """Return what finds out what is committed in a copy."""

    @property
    def server(self) -> DatabaseServer | None:
        """The server; ``None`` for SQLite."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Drop all databases, and end a private server."""


class SqliteStock(Stock):
    """Files in a folder, copied by SQLite's own backup."""

    def __init__(self, folder: Path) -> None:
        super().__init__("sqlite")
        self._folder = folder

    def url(self, database: str) -> str:
        return f"sqlite:///{database}"

    def _make(self) -> str:
        return str(self._folder / f"{new_database_name()}.db")

    def copy(self) -> str:
        database = self._make()
        with closing(sqlite3.connect(self.template)) as source, closing(sqlite3.connect(database)) as target:
            source.backup(target)
        return database

    def drop(self, database: str) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(database + suffix).unlink(missing_ok=True)

    def watch(self, database: str) -> Watch:
        return SqliteWatch(database, self.template)

    def close(self) -> None:
        for path in self._folder.glob(f"{DATABASE_PREFIX}*"):
            path.unlink(missing_ok=True)


class ServerStock(Stock):
    """Databases of a server; *watch* finds out what is committed in one."""

    def __init__(self, server: DatabaseServer) -> None:
        super().__init__(server.name)
        self._server = server

    @property
    def server(self) -> DatabaseServer:
        return self._server

    def url(self, database: str) -> str:
        return self._server.url(database)

    def _make(self) -> str:
        try:
            return self._server.create_database()
        except Exception as error:
            raise _cannot("create databases", self._server, error) from error

    def drop(self, database: str) -> None:
        self._server.drop_database(database)

    def close(self) -> None:
        # An existing server drops what is ours, a private one ends.
        self._server.close()


class PostgresqlStock(ServerStock):
    """PostgreSQL copies a database itself."""

    def copy(self) -> str:
        database = self._server.new_name()
        # PostgreSQL copies no database that somebody uses: an engine of the migrations may never have been disposed of.
        self._server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where datname = '{self.template}' and pid <> pg_backend_pid()"
        )
        self._server.execute(f'create database "{database}" template "{self.template}"')
        return database

    def watch(self, database: str) -> Watch:
        return PostgresqlWatch(self._connection(database), self._connection(self.template))

    def _connection(self, database: str) -> Any:
        return self._server.connect(database)


class MariadbStock(ServerStock):
    """Copies are brought back to what they were and used again: making one takes some hundred times as long."""

    def __init__(self, server: DatabaseServer) -> None:
        super().__init__(server)
        self._free: list[str] = []

    def fill(self, migrate: Migrate) -> None:
        super().fill(migrate)
        self._template = Template(self._server.connect(self.template), self.template)

    def copy(self) -> str:
        if self._free:
            return self._free.pop()
        database = self._server.create_database()
        self._template.copy_to(self._server.connect(database))
        return database

    def drop(self, database: str) -> None:
        for session in self._server.sessions(database):
            self._server.kill_session(session)  # it might hold a lock
        if self._template.restore(self._server.connect(database)):
            self._free.append(database)
        else:
            super().drop(database)

    def watch(self, database: str) -> Watch:
        return MariadbWatch(self._server.connect(database), database, self.template)


_OF_SERVERS: dict[str, type[ServerStock]] = {"postgresql": PostgresqlStock, "mariadb": MariadbStock}

#: The names that the marker and the option take.
KINDS = ("sqlite", *_OF_SERVERS)


def make_stock(name: str, folder: Path) -> Stock:
    """Return an empty stock of the kind *name*; a server is started.

    Raises:
        ServerUnavailableError: if there is no such server here.
        UsageError: if the environment names one that can't be used.
    """
    if name not in _OF_SERVERS:
        return SqliteStock(folder)
    server = SERVERS[name].locate()
    try:
        return _OF_SERVERS[name](server.start())
    except PrefiqDbError:
        raise
    except Exception as error:
        raise _cannot("connect", server, error) from error


def _cannot(what: str, server: DatabaseServer, error: Exception) -> UsageError:
    """Return the error for a server on which we can't do *what*."""
    where = "a private server" if server.is_private else server.kind.url_variable
    return UsageError(
        f"{where}: the tests can't {what} there ({type(error).__name__}, {server.kind.title}): they need a server that "
        "answers, and a user who may create databases called prefiq_test_..."
    )
