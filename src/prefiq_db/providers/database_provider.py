"""DatabaseProvider: every configured database, built, opened and verified at boot, closed at shutdown."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from prefiq_db.application.failures import attempt, attempt_async
from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.errors import DatabaseError, ErrorKind, PrefiqDbError, UsageError, error_type
from prefiq_db.hooks.application_hooks import HooksOfAll
from prefiq_db.mongo import AsyncMongoDatabase, MongoDatabase
from prefiq_db.providers.base_provider import BaseProvider
from prefiq_db.reports import HealthReport
from prefiq_db.settings import DatabaseSettings, Settings
from prefiq_db.settings.database_settings import is_production
from prefiq_db.settings.target import TARGET_FIELDS

AnyDatabase = Database | AsyncDatabase | MongoDatabase | AsyncMongoDatabase
_Async = (AsyncDatabase, AsyncMongoDatabase)

logger = logging.getLogger("prefiq_db.boot")


class DatabaseProvider(BaseProvider):
    """Bind ``db.<name>`` for every database of the settings, and ``db`` to the same object as ``db.main``.

    ``hooks`` registers listeners for all of them at once.

    At boot each database is opened, which must succeed, and one line is logged about it (logger
    ``prefiq_db.boot``; fields ``database``, ``engine``, ``mode``, ``healthy``, ``latency_seconds``). All databases are
    tried before a failure is raised; then all are closed again.

    Attributes:
        given: databases that exist already, by name: bound in place of those of the settings, neither opened nor closed
            here. For tests, see :mod:`prefiq_db.testing.injection`.
        databases: the databases by name, from ``register()`` on.
        reports: the health report of each database at boot, also if the boot failed.
        failures: the error of each database that could not be opened.
        note: says which default location ``main`` has if no setting gives one; else ``""``. Logged at boot, in
            production as a warning.
    """

    name = "database"
    requires = ("settings",)
    provides = ("db", "hooks")
    given: ClassVar[Mapping[str, AnyDatabase]] = MappingProxyType({})

    def __init__(self) -> None:
        self.databases: dict[str, AnyDatabase] = {}
        self.reports: dict[str, HealthReport] = {}
        self.failures: dict[str, Exception] = {}
        self.note = ""

    def register(self) -> None:
        settings = self.app.resolve("settings")
        self.note = "" if "main" in self.given else _explain_default_file(settings)
        for name, each in settings.databases.items():
            self.databases[name] = self._check_given(name, _class_for(each)) or _class_for(each)(each, name=name)
            self.app.bind(f"db.{name}", self.databases[name])
        self.app.bind("db", self.databases["main"])
        self.app.bind("hooks", HooksOfAll([database.hooks for database in self.databases.values()]))

    def _check_given(self, name: str, world: type[AnyDatabase]) -> AnyDatabase | None:
        given = self.given.get(name)
        if given is not None and not isinstance(given, world):
            raise UsageError(
                f"database {name}: its settings ask for {world.__name__}, and the test gave {type(given).__name__}; "
                "give one of the same world, or set the mode"
            )
        return given

    @property
    def _own(self) -> list[AnyDatabase]:
        """The databases that are opened and closed here."""
        return [database for name, database in self.databases.items() if database is not self.given.get(name)]

    def async_only(self) -> str:
        names = [repr(name) for name, database in self.databases.items() if database.is_async]
        if not names:
            return ""
        return f"{'database' if len(names) == 1 else 'databases'} {', '.join(names)} in mode 'async'"

    # --- twins -------------------------------------------------------------------------------------

    def boot(self) -> None:
        self._tell_unsaid()
        try:
            for database in self._own:
                assert not isinstance(database, _Async)  # ensured by async_only()
                failure = attempt(database.open)
                self._note(database, failure, database.health() if failure is None else None)
            failed = self._failure()
        except BaseException:
            self._close_all()
            raise
        if failed is not None:
            self._close_all()
            raise failed

    async def boot_async(self) -> None:
        self._tell_unsaid()
        try:
            for database in self._own:
                if isinstance(database, _Async):
                    failure = await attempt_async(database.open)
                    self._note(database, failure, await database.health() if failure is None else None)
                else:
                    # In this thread: nothing else runs yet that a short wait could delay.
                    failure = attempt(database.open)
                    self._note(database, failure, database.health() if failure is None else None)
            failed = self._failure()
        except BaseException:
            await self._close_all_async()
            raise
        if failed is not None:
            await self._close_all_async()
            raise failed

    def shutdown(self) -> None:
        """Close every database, even if closing another one fails; the first error is raised at the end."""
        failure = self._close_all()
        if failure is not None:
            raise failure

    async def ashutdown(self) -> None:
        """Close every database, as :meth:`shutdown` does."""
        failure = await self._close_all_async()
        if failure is not None:
            raise failure

    def _close_all(self) -> Exception | None:
        failures = [attempt(d.close) for d in reversed(self._own) if not isinstance(d, _Async)]
        return next(filter(None, failures), None)

    async def _close_all_async(self) -> Exception | None:
        failures: list[Exception | None] = []
        interruption: BaseException | None = None
        for database in reversed(self._own):
            try:
                if isinstance(database, _Async):
                    failures.append(await attempt_async(database.close))
                else:
                    failures.append(attempt(database.close))
            except BaseException as error:  # noqa: BLE001 - a cancellation must not leave the others open; raised below
                interruption = interruption or error
        if interruption is not None:
            raise interruption
        return next(filter(None, failures), None)

    # --- what both worlds say ----------------------------------------------------------------------

    def _tell_unsaid(self) -> None:
        if self.note:
            production = is_production(self.app.resolve("settings").environment)
            logger.log(logging.WARNING if production else logging.INFO, "%s", self.note, extra={"database": "main"})

    def _note(self, database: AnyDatabase, failure: Exception | None, report: HealthReport | None) -> None:
        if report is None:
            kind = failure.kind if isinstance(failure, PrefiqDbError) else ErrorKind.UNKNOWN
            reason = str(failure) if isinstance(failure, PrefiqDbError) else type(failure).__name__
            # The report has the name already.
            reason = reason.removeprefix(f"database '{database.name}'").removeprefix(": ").removeprefix(" ")
            report = HealthReport(database.name, healthy=False, reason=reason, kind=kind)
        elif not report.healthy and report.latency_seconds is None:
            failure = error_type(report.kind or ErrorKind.UNKNOWN)(report.reason, database=database.name)
        # A server that answers but refuses writes (during a failover, for example) doesn't prevent the start.
        self.reports[database.name] = report
        if failure is not None:
            self.failures[database.name] = failure
        logger.log(
            logging.ERROR if failure is not None else logging.INFO if report.healthy else logging.WARNING,
            "database %s: %s",
            database.name,
            "healthy" if report.healthy else report.reason,
            extra={
                "database": database.name,
                "engine": database.settings.engine,
                "mode": database.settings.mode,
                "healthy": report.healthy,
                "latency_seconds": report.latency_seconds,
            },
        )

    def _failure(self) -> Exception | None:
        """Return the error to raise when databases failed: the error itself, or one that names several."""
        failures = list(self.failures.values())
        if len(failures) < 2:
            return failures[0] if failures else None
        first = failures[0]
        down = "; ".join(f"{name}: {self.reports[name].reason}" for name in self.failures)
        together = ExceptionGroup("databases failed to open", failures)
        if not isinstance(first, PrefiqDbError):
            return DatabaseError(down, original=together)
        return error_type(first.kind)(
            down, code=first.code, database=first.database, classification=first.classification, original=together
        )


def _class_for(settings: DatabaseSettings) -> type[AnyDatabase]:
    """Return the class of the database of *settings*: by what it keeps, and by its mode."""
    if settings.target.product.keeps_documents:
        return AsyncMongoDatabase if settings.mode == "async" else MongoDatabase
    return AsyncDatabase if settings.mode == "async" else Database


def _explain_default_file(settings: Settings) -> str:
    """Return a warning when no setting says where ``main`` is: a file beside the program is rarely intended."""
    target = settings.database.target
    if not target.product.is_file or any(f"databases.main.{field}" in settings.sources for field in TARGET_FIELDS):
        return ""
    if settings.database.model_fields_set & TARGET_FIELDS:  # ready settings have no sources
        return ""
    return f"no setting says where database main is, so it is the file {os.path.abspath(target.database)}; set DB_URL"
