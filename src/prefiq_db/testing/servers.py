"""The test servers, by name."""

from __future__ import annotations

from prefiq_db.testing.database_names import DATABASE_PREFIX
from prefiq_db.testing.database_server import DatabaseServer
from prefiq_db.testing.locate import ServerUnavailableError, is_required
from prefiq_db.testing.mariadb_server import MariaDbServer
from prefiq_db.testing.postgresql_server import PostgresServer

#: By their names in ``PREFIQ_REQUIRE`` and in marks.
SERVERS: dict[str, type[DatabaseServer]] = {"postgresql": PostgresServer, "mariadb": MariaDbServer}

__all__ = [
    "DATABASE_PREFIX",
    "SERVERS",
    "DatabaseServer",
    "MariaDbServer",
    "PostgresServer",
    "ServerUnavailableError",
    "is_required",
]
