"""Find the databases of a service, and its further readiness checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from prefiq_db.application import Application
from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.errors import UsageError
from prefiq_db.mongo import AsyncMongoDatabase, MongoDatabase
from prefiq_db.providers import DatabaseProvider

AnyDatabase = Database | AsyncDatabase | MongoDatabase | AsyncMongoDatabase
DATABASES: Final = (Database, AsyncDatabase, MongoDatabase, AsyncMongoDatabase)
Source = Application | AnyDatabase | Iterable[AnyDatabase]


def databases_of(source: Source) -> list[AnyDatabase]:
    """Return the databases of *source*: an application, a list of databases, or one database.

    Raises:
        UsageError: there is none, or something that isn't a database is among them.
    """
    if isinstance(source, Application):
        source.prepare()
        providers = [each for each in source.providers if isinstance(each, DatabaseProvider)]
        found: list[Any] = [database for provider in providers for database in provider.databases.values()]
    elif isinstance(source, DATABASES):
        found = [source]
    else:
        found = list(source)
    if not found:
        raise UsageError("there is no database to watch: an Application needs the DatabaseProvider")
    for each in found:
        if not isinstance(each, DATABASES):
            raise UsageError(f"expected an Application, a database or several, not a {type(each).__name__}")
    return found
