"""A health check tells well from exhausted, read-only and down, asks once for many and holds one connection."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database, ErrorKind
from prefiq_db.errors import UsageError
from prefiq_db.events import HealthChanged, Listener
from prefiq_db.health import AsyncHealthCheck, HealthCheck, Status, Verdict, is_healthy
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database
from tests.twins.support import CREATE_STOCK, INSERT_STOCK, on_engine

Check = Any


class Clock:
    """A time of day that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Changes(Listener):
    """Remembers what health checks told."""

    def __init__(self) -> None:
        self.told: list[HealthChanged] = []

    def health_changed(self, event: HealthChanged) -> None:
        self.told.append(event)


class SyncCheckFacade:
    """A ``HealthCheck`` with the face of an ``AsyncHealthCheck``."""

    def __init__(self, check: HealthCheck) -> None:
        self._check = check

    async def health(self) -> Any:
        return self._check.health()

    async def readiness(self) -> Any:
        return self._check.readiness()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_check(world: str, clock: Clock) -> Callable[..., Check]:
    """Make health checks of databases of this world; deadlines are long enough for a slow machine."""

    def make(*databases: Any, **options: Any) -> Check:
        options = {"clock": clock, "deadline_seconds": 10.0, **options}
        if world == "async":
            return AsyncHealthCheck(*databases, **options)
        return SyncCheckFacade(HealthCheck(*(each._wrapped for each in databases), **options))

    return make


def statements(db: Any) -> int:
    return int(db.stats().statement_count)


async def test_a_database_that_works_passes_by_one_statement(db: Any, make_check: Callable[..., Check]) -> None:
    before = statements(db)
    health = await make_check(db).health()
    assert (health.status, health.reason, bool(health)) == (Status.PASS, "", True)
    (finding,) = health.findings
    assert (finding.name, finding.status, finding.kind) == ("main:responseTime", Status.PASS, None)
    assert finding.latency_seconds is not None
    assert statements(db) == before + 1


async def test_an_answer_is_good_for_a_while_by_the_given_clock(
    db: Any, make_check: Callable[..., Check], clock: Clock
) -> None:
    check, before = make_check(db, cache_seconds=5), statements(db)
    first = await check.health()
    clock.now += 4.9
    assert await check.health() == first
    assert statements(db) == before + 1
    clock.now += 0.2
    assert (await check.health()).findings != first.findings
    assert statements(db) == before + 2


async def test_many_probes_at_once_are_one_check(
    make_db: Callable[..., Any], make_check: Callable[..., Check], harness: Harness
) -> None:
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=0.2)
    check = make_check(db)
    async with db.transaction() as tx:
        await tx.fetch_value("select 1")
        before = statements(db)
        # The pool is held, so that the first check is still under way when the others come.
        found = await harness.together(*[check.health] * 20)
        assert statements(db) == before + 1
    assert {health.status for health in found} == {Status.WARN}
    assert len({health.findings for health in found}) == 1


async def test_an_exhausted_pool_warns_because_the_server_answers_outside_it(
    make_db: Callable[..., Any], make_check: Callable[..., Check]
) -> None:
    db = make_db(pool_size=1, max_overflow=0, pool_timeout_seconds=0.1)
    check = make_check(db, cache_seconds=0)
    async with db.transaction() as tx:
        await tx.fetch_value("select 1")
        health = await check.health()
        assert db.stats().pool.checked_out == 1
    assert (health.status, bool(health)) == (Status.WARN, True)
    assert health.findings[0].kind is ErrorKind.POOL_TIMEOUT
    assert health.reason == "main: pool_timeout: the server answers outside the pool"
    assert (await check.health()).status is Status.PASS


async def test_a_database_in_memory_is_well_while_somebody_writes(world: str, make_check: Callable[..., Check]) -> None:
    """There a reader waits for the writer, so a check must not read."""
    db = make_database(world, "sqlite://", lock_timeout_seconds=0.2)
    await db.execute(CREATE_STOCK)
    async with db.transaction() as tx:
        await tx.execute(INSERT_STOCK, {"id": 1, "quantity": 2})
        assert (await make_check(db).health()).status is Status.PASS
    await db.close()


async def test_the_transaction_of_whoever_asks_is_left_alone(db: Any, make_check: Callable[..., Check]) -> None:
    await db.execute(CREATE_STOCK)
    async with db.transaction() as tx:
        await tx.execute(INSERT_STOCK, {"id": 1, "quantity": 2})
        assert (await make_check(db).health()).status is Status.PASS
    assert tx.outcome == "committed"


@contextlib.asynccontextmanager
async def refusing_writes(db: Any, backend: Backend) -> AsyncIterator[None]:
    """Make the backend refuse writes in this block."""
    if backend.server is None:
        # Below SQLAlchemy: a connection that is seen to be told so leaves the pool.
        await on_engine(db, lambda each: each.connection.dbapi_connection.cursor().execute("PRAGMA query_only = ON"))
        yield
        return
    name = backend.url.rpartition("/")[2].partition("?")[0]
    on, off = {
        "postgresql": (
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = on',
            f'ALTER DATABASE "{name}" RESET default_transaction_read_only',
        ),
        "mariadb": ("SET GLOBAL read_only = ON", "SET GLOBAL read_only = OFF"),
    }[backend.name]
    backend.server.execute(on)
    try:
        yield
    finally:
        backend.server.execute(off)


async def test_a_read_only_server_fails_unless_nobody_wants_to_write(
    make_db: Callable[..., Any], make_check: Callable[..., Check], backend: Backend
) -> None:
    db = make_db(pool_size=1, max_overflow=0)
    async with refusing_writes(db, backend):
        health = await make_check(db).health()
        readable = await make_check(db, read_only=["main"]).health()
        spared = await make_check(db, non_critical=["main"]).health()
        report, reading = await db.health(), await db.using(read_only=True).health()
        assert await db.test_connection() is True
    assert (report.healthy, report.reason, report.kind) == (False, "read_only", ErrorKind.READ_ONLY)
    assert report.latency_seconds > 0
    assert (reading.healthy, reading.kind) == (True, None)
    assert (health.status, health.findings[0].kind) == (Status.FAIL, ErrorKind.READ_ONLY)
    assert health.reason == "main: read_only"
    assert readable.status is Status.PASS
    assert (spared.status, spared.reason, bool(spared)) == (Status.WARN, "main: read_only", True)


async def test_changes_are_told_once_each_to_the_databases_hooks(
    make_db: Callable[..., Any], make_check: Callable[..., Check]
) -> None:
    db = make_db(pool_size=1, max_overflow=0)
    changes = Changes()
    db.hooks.add(changes)
    check = make_check(db, cache_seconds=0)
    await check.health()
    assert changes.told == []  # well is what everybody assumed
    await db.close()
    await check.health()
    await check.health()
    await db.open()
    await check.health()
    assert [(each.database, each.healthy) for each in changes.told] == [("main", False), ("main", True)]
    assert changes.told[0].reason == "usage"


async def test_further_checks_are_asked_by_readiness_only(db: Any, make_check: Callable[..., Check]) -> None:
    def broken() -> bool:
        raise LookupError("a value that must not be shown")

    checks = {
        "stock:loaded": lambda: True,
        "cache:warm": lambda: Verdict(Status.WARN, "still cold"),
        "queue:reachable": lambda: False,
        "mail:reachable": broken,
    }
    check = make_check(db, checks=checks)
    assert (await check.health()).status is Status.PASS
    ready = await check.readiness()
    assert {each.name: (each.status.value, each.reason) for each in ready.findings} == {
        "main:responseTime": ("pass", ""),
        "stock:loaded": ("pass", ""),
        "cache:warm": ("warn", "still cold"),
        "queue:reachable": ("fail", "not met"),
        "mail:reachable": ("fail", "LookupError"),
    }
    assert (ready.status, bool(ready)) == (Status.FAIL, False)


async def test_a_silent_server_fails_at_the_deadline_and_passes_again(
    new_postgresql_server: Callable[..., Any],
    make_check: Callable[..., Check],
    harness: Harness,
    world: str,
    clock: Clock,
) -> None:
    """The connection is broken off and comes back; the driver alone would wait for ever."""
    server = new_postgresql_server()
    db = make_database(world, server.url(server.create_database()), pool_size=1)
    await db.open()
    check = make_check(db, deadline_seconds=0.3)
    server.freeze()
    try:
        silent = await check.health()
    finally:
        server.thaw()
    assert (silent.status, bool(silent), silent.reason) == (Status.FAIL, False, "main: no answer within 0.3 s")

    async def all_came_back() -> bool:
        return bool(db.stats().pool.checked_out == 0)

    await harness.until(lambda: passes(check, clock))
    await harness.until(all_came_back)
    await db.close()


async def passes(check: Check, clock: Clock) -> bool:
    clock.now += 60
    return bool((await check.health()).status is Status.PASS)


# --- one world -----------------------------------------------------------------------------------


def test_a_file_that_somebody_deleted_is_noticed(tmp_path: Path) -> None:
    """SQLite goes on working in a file without a name, and loses it all in the end."""
    with Database(f"sqlite:///{tmp_path / 'gone.db'}") as db:
        os.unlink(tmp_path / "gone.db")
        assert db.test_connection()
        assert HealthCheck(db).health().reason == "main: not_ready"
        assert db.health().reason == "not_ready"
        assert not is_healthy(db)


async def test_an_asynchronous_check_takes_synchronous_databases_and_checks_of_both_kinds() -> None:
    async def warm() -> bool:
        return True

    with Database("sqlite://", name="ledger") as ledger:
        async with AsyncDatabase("sqlite://") as db:
            check = AsyncHealthCheck(db, ledger, checks={"a:warm": warm, "b:warm": lambda: True})
            assert [each.name for each in (await check.readiness()).findings] == [
                "main:responseTime",
                "ledger:responseTime",
                "a:warm",
                "b:warm",
            ]
            assert (await check.readiness()).status is Status.PASS


def test_what_a_check_cannot_do_is_refused_when_it_is_made() -> None:
    async def warm() -> bool:
        return True

    db = Database("sqlite://")
    for make, hint in (
        (lambda: HealthCheck(AsyncDatabase("sqlite://")), "AsyncHealthCheck"),
        (lambda: HealthCheck(db, checks={"a": warm}), "AsyncHealthCheck"),
        (lambda: HealthCheck(db, Database("sqlite://")), "same name"),
        (lambda: HealthCheck(db, non_critical=["ledger"]), "ledger"),
        (lambda: HealthCheck(db, deadline_seconds=0), "deadline_seconds"),
    ):
        with pytest.raises(UsageError, match=hint):
            make()
