"""The databases that are measured: SQLite in a file, and private servers of PostgreSQL and MariaDB."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import workload
from prefiq_db.testing import DatabaseServer
from prefiq_db.testing.servers import SERVERS

DATABASES = ("sqlite", *SERVERS)
#: Of plain SQLAlchemy, by world.
DRIVERS = {
    "sqlite": {"sync": "sqlite", "async": "sqlite+aiosqlite"},
    "postgresql": {"sync": "postgresql+psycopg", "async": "postgresql+psycopg"},
    "mariadb": {"sync": "mariadb+pymysql", "async": "mariadb+asyncmy"},
}


@dataclass(frozen=True, slots=True)
class Place:
    """A database with the tables of the workload.

    Attributes:
        name: ``sqlite``, ``postgresql`` or ``mariadb``.
        url: what :class:`prefiq_db.Database` gets.
        version: of the server, or of SQLite.
    """

    name: str
    url: str
    version: str

    def plain_url(self, world: str, driver: str = "") -> sa.URL:
        """Return the URL for plain SQLAlchemy."""
        return sa.make_url(self.url).set(drivername=driver or DRIVERS[self.name][world])

    @property
    def path(self) -> str:
        """The file, on SQLite."""
        return self.url.removeprefix("sqlite:///")

    @property
    def arguments(self) -> dict[str, Any]:
        """What the drivers of MariaDB take."""
        url = sa.make_url(self.url)
        return {
            "host": url.host, "port": url.port, "user": url.username, "password": url.password or "",
            "database": url.database,
        }  # fmt: skip

    @property
    def port(self) -> int:
        """The server's port; 0 on SQLite."""
        return sa.make_url(self.url).port or 0

    def at_port(self, port: int) -> Place:
        """Return the same database, reached by another port of this machine."""
        return replace(self, url=sa.make_url(self.url).set(port=port).render_as_string(hide_password=False))


@contextmanager
def make_place(name: str) -> Iterator[Place]:
    """Give a database with tables and rows; it is gone afterwards."""
    if name == "sqlite":
        with tempfile.TemporaryDirectory(dir=_in_memory()) as folder:
            yield fill(Place(name, f"sqlite:///{Path(folder, 'bench.db')}", _sqlite_version()))
        return
    with SERVERS[name].locate() as server:
        yield on_server(server)


def on_server(server: DatabaseServer) -> Place:
    """Return a new database on a running server."""
    return fill(Place(server.name, server.url(server.create_database()), server.version))


def fill(place: Place) -> Place:
    """Make the tables and their rows, by plain SQLAlchemy."""
    engine = sa.create_engine(place.plain_url("sync"))
    with engine.connect() as connection:
        if place.name == "sqlite":
            connection.exec_driver_sql("pragma journal_mode = wal")  # which prefiq_db switches on, for all of them
            connection.commit()
        workload.METADATA.create_all(connection)
        connection.execute(workload.ITEM.insert(), workload.item_rows())
        connection.execute(workload.WIDE.insert(), workload.wide_rows())
        connection.commit()
    engine.dispose()
    return place


def _in_memory() -> str | None:
    """A folder in memory, if there is one: on a disk, SQLite's commits cost what the disk costs."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _sqlite_version() -> str:
    import sqlite3

    return sqlite3.sqlite_version
