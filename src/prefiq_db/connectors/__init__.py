"""Open connections: the arguments of each driver. The password is revealed here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefiq_db.config import Target
from prefiq_db.connectors.connector import Connect
from prefiq_db.connectors.mariadb_connector import AsyncmyConnector, PyMySQLConnector
from prefiq_db.connectors.postgresql_connector import AsyncPostgresConnector, PostgresConnector
from prefiq_db.connectors.sqlite_connector import AiosqliteConnector, SqliteConnector
from prefiq_db.settings import DatabaseSettings

#: Takes SQLAlchemy's connect function, its arguments, and the changes of a listener to the login.
_Open = Callable[[Connect, dict[str, Any], Mapping[str, Any]], Any]


def connector_for(settings: DatabaseSettings, target: Target, is_async: bool) -> _Open:
    """Return the function that opens one connection to *target*."""
    if target.product.is_file:
        return (AiosqliteConnector if is_async else SqliteConnector)(settings, target)
    if target.product.speaks_mysql:
        return (AsyncmyConnector if is_async else PyMySQLConnector)(settings, target)
    return (AsyncPostgresConnector if is_async else PostgresConnector)(settings, target)
