"""Where the tests of one worker run on one kind of database, and whether one of them left something behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config

from prefiq_db.database import Database
from prefiq_db.errors import UsageError
from prefiq_db.migrate import migrations_directory
from prefiq_db.migrate.environment import HEARD
from prefiq_db.testing.isolation.isolated import IsolatedDatabase, TestDatabase
from prefiq_db.testing.isolation.past_commits import Watch
from prefiq_db.testing.isolation.stock import Migrate, Stock, make_stock


class Place:
    """The databases of one kind.

    Attributes:
        name: ``sqlite``, ``postgresql`` or ``mariadb``.
        fields: further settings of each database.
    """

    def __init__(self, name: str, folder: Path, migrate: Migrate, fields: Mapping[str, Any]) -> None:
        self.name = name
        self.fields = fields
        self._stock: Stock = make_stock(name, folder)
        self._copy = ""
        self._watch: Watch | None = None
        try:
            self._stock.fill(lambda db: _migrate_all(db, migrate))
            self._renew()
        except BaseException:
            self._stock.close()
            raise

    @property
    def url(self) -> str:
        """The URL of the database that the rolled-back tests share."""
        return self._stock.url(self._copy)

    @property
    def server(self) -> Any:
        """The :class:`~prefiq_db.testing.DatabaseServer`; ``None`` for SQLite."""
        return self._stock.server

    def _renew(self) -> Watch:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
            self._stock.drop(self._copy)
        self._copy = self._stock.copy()
        self._watch = watch = self._stock.watch(self._copy)
        return watch

    def isolated(self, *, is_async: bool) -> IsolatedDatabase:
        """Return a database whose end undoes everything; from now on commits past it are noted."""
        try:
            (self._watch or self._renew()).start()
        except Exception:  # noqa: BLE001 - the watch may have lost its connection; if the server is down, this raises
            self._renew().start()
        return IsolatedDatabase(self.url, is_async=is_async, fields=self.fields)

    def changes(self) -> list[str]:
        """Return what was committed since, a line each; then the next test gets a new copy."""
        assert self._watch is not None
        try:
            found = [str(change) for change in self._watch.changes()]
        except Exception as error:  # noqa: BLE001 - whatever it is, the copy may be changed and must not be used again
            found = [f"nobody knows what: looking for it failed ({type(error).__name__})"]
        if found:
            self._renew()
        return found

    @contextmanager
    def copied(self) -> Iterator[str]:
        """Return the URL of a new copy, for a test that commits; it is dropped behind the block."""
        database = self._stock.copy()
        try:
            yield self._stock.url(database)
        finally:
            self._stock.drop(database)

    def committing(self, url: str, *, is_async: bool) -> TestDatabase:
        """Return a database on a copy, as in production."""
        return TestDatabase(url, is_async=is_async, fields=self.fields)

    def close(self) -> None:
        """Drop everything, and end a private server."""
        if self._watch is not None:
            self._watch.close()
        self._stock.close()


def _migrate_all(db: Database, migrate: Migrate) -> None:
    """Make the tables of prefiq_db, which ``exactly_once`` needs, and the application's."""
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    with db.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    migrate(db)


def run_alembic(ini: Path, db: Database) -> None:
    """Bring *db* to the head of the history that *ini* describes; its ``env.py`` calls ``prefiq_db.migrate.run()``."""
    config = Config(str(ini))
    config.attributes["connection"] = db.engine
    command.upgrade(config, "head")
    if HEARD not in config.attributes:
        raise UsageError(
            f"{ini}: its env.py doesn't call prefiq_db.migrate.run(), so it may have migrated another database; "
            "override the fixture prefiq_migrate instead"
        )
