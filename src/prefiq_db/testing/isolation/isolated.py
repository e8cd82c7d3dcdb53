"""Databases for one test: one that undoes everything, and one that commits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from prefiq_db.database import Database
from prefiq_db.database_async import AsyncDatabase
from prefiq_db.errors import UsageError
from prefiq_db.execution.direct import DirectRoad
from prefiq_db.execution.standard import StandardRoad
from prefiq_db.instance import Instance
from prefiq_db.settings import DatabaseSettings
from prefiq_db.tenants import TenantPools
from prefiq_db.testing.isolation.enclosed_dialects import enclosed
from prefiq_db.testing.isolation.enclosure import COMMITTED, Enclosure
from prefiq_db.testing.isolation.loop_keeper import LoopKeeper
from prefiq_db.testing.isolation.taking_turns import AsyncKept, AsyncTurns, SyncTurns

AnyDatabase = Database | AsyncDatabase

# One connection, which lives as long as the test.
_ONE_CONNECTION: Final[Mapping[str, Any]] = {
    "pool_size": 1, "max_overflow": 0, "pool_max_age_seconds": 86_400.0, "ping_after_idle_seconds": 86_400.0,
}  # fmt: skip


class TestDatabase:
    """A database for one test, as the application gets it; it commits as in production.

    Attributes:
        db: the database.
        leaked: who had not given a connection back when the test ended, one a line; or ``""``.
    """

    __test__ = False  # not a class of tests

    def __init__(self, url: str, *, is_async: bool, fields: Mapping[str, Any]) -> None:
        settings = DatabaseSettings(url=url, **fields)
        self.db: AnyDatabase = AsyncDatabase(settings) if is_async else Database(settings)
        self.leaked = ""
        self._instance: Instance = self.db._core.instance
        self._pool: Any = self._instance.engine.pool
        self._keeper = LoopKeeper(self._close, self._cut) if is_async else None
        self._dress()

    def _dress(self) -> None:
        if self._keeper is not None:
            self._pool.__class__ = AsyncKept
            self._pool.keeper = self._keeper

    def end(self) -> None:
        """Close the database, from outside of its event loop."""
        if self._keeper is None:
            self._close()
        else:
            self._keeper.end()
            self._instance.closed = True

    def _close(self) -> None:
        if self.db.stats().pool.checked_out:
            self.leaked = self._instance.watcher.table()
        self._drop_held()
        self._instance.close()

    def _cut(self) -> None:
        self._pool.cut()

    def _drop_held(self) -> None:
        """Close the connection that nobody has given back, where that matters."""


class IsolatedDatabase(TestDatabase):
    """A database for one test: all that is done on it is one transaction at the server, which is rolled back.

    Its parts are made as in production; then the dialect, the pool and the road get the behaviour of a test's.
    """

    def __init__(self, url: str, *, is_async: bool, fields: Mapping[str, Any]) -> None:
        self.enclosure = Enclosure()
        super().__init__(url, is_async=is_async, fields={**fields, **_ONE_CONNECTION})

    def _dress(self) -> None:
        instance, pool = self._instance, self._pool
        dialect: Any = instance.engine.dialect
        kind: Any = type(dialect)
        dialect.__class__ = enclosed(kind)
        pool.__class__ = SyncTurns if self._keeper is None else AsyncTurns
        pool.keeper = self._keeper
        dialect.enclosure = pool.enclosure = self.enclosure
        instance.tenants = TenantPools(_refuse_tenant, 1)
        road: Any = instance.road
        road.__class__, road.steps_aside = _OneRoad, True

    def _close(self) -> None:
        self.enclosure.lost = self.enclosure.lost or "the test, or its event loop, has ended"
        super()._close()

    def _drop_held(self) -> None:
        self._pool.drop_held()


def _refuse_tenant(name: str) -> NoReturn:
    raise UsageError(
        "override database (and schema, where that is a database): it has connections of its own, which the rollback "
        f"of this test's fixture doesn't reach; {COMMITTED}"
    )


class _OneRoad(DirectRoad):
    """The road of a test, which leads nowhere else: another connection would see nothing of the test.

    It steps aside: statements take SQLAlchemy's way, where each can have a savepoint of its own.
    """

    def outside(self) -> StandardRoad:
        return self
