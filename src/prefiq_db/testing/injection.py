"""Give a test's databases to the applications that it starts, in whatever thread or event loop they run."""

from __future__ import annotations

from typing import Self, TypeVar

from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.errors import UsageError
from prefiq_db.providers import DatabaseProvider

_D = TypeVar("_D", bound=Database | AsyncDatabase)


class Injection:
    """``with Injection() as inject: inject(db)``: every application that starts in the block gets *db*.

    It takes the place of the database of that name in the settings: in ``bootstrap()``, in an ``Application`` with a
    ``DatabaseProvider``, in a framework's ``PrefiqDb``. The application neither opens nor closes it.
    """

    def __init__(self) -> None:
        self._before = DatabaseProvider.given

    def __enter__(self) -> Self:
        self._before = DatabaseProvider.given
        return self

    def __exit__(self, *exc: object) -> None:
        DatabaseProvider.given = self._before

    def __call__(self, db: _D, name: str = "main") -> _D:
        """Give *db* to applications as their database *name*; return it."""
        if not isinstance(db, (Database, AsyncDatabase)):
            raise UsageError(f"inject: expected a Database or an AsyncDatabase, not {type(db).__name__}")
        DatabaseProvider.given = {**DatabaseProvider.given, name: db}
        return db
