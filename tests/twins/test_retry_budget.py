"""An outage or a conflict that doesn't end is no storm of retries: attempts <= 3 x successes, and a constant."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from prefiq_db import RetryPolicy
from prefiq_db.errors import DeadlockError, ErrorClass, ErrorKind, PrefiqDbError, SerializationError
from prefiq_db.events import AttemptFailed, Listener
from prefiq_db.retry_budget import REFILL_SECONDS
from tests.conftest import Backend
from tests.twins.harness import Harness, make_database

CLIENTS = 32
CAPACITY = 40
QUICK = RetryPolicy(attempts=30, wait_initial_seconds=0.001, wait_max_seconds=0.002)
CONFLICT = ErrorClass(ErrorKind.SERIALIZATION, transient=True, retry_statement=True, retry_transaction=True)
WAYS = ["run_in_transaction", "attempts"]


class Retries(Listener):
    def __init__(self) -> None:
        self.count = 0

    def attempt_failed(self, event: AttemptFailed) -> None:
        self.count += 1


async def conflicting(tx: Any) -> None:
    raise SerializationError("always", classification=CONFLICT)


async def by_way(db: Any, way: str, body: Callable[[Any], Any], **options: Any) -> None:
    if way == "run_in_transaction":
        await db.run_in_transaction(body, **options)
        return
    for attempt in db.attempts(**options):
        async with attempt as tx:
            await body(tx)


@pytest.mark.parametrize("way", WAYS)
async def test_a_conflict_that_never_ends(make_db: Callable[..., Any], harness: Harness, way: str) -> None:
    """Thirty-two clients fail for ever: the budget's retries are made, and no more."""
    db = make_db(pool_size=4, max_overflow=0, pool_timeout_seconds=15, retry=QUICK, retry_budget=CAPACITY)
    retries = db.hooks.add(Retries())
    started = time.monotonic()

    async def client() -> None:
        with pytest.raises(SerializationError):
            await by_way(db, way, conflicting)

    await harness.together(*[client] * CLIENTS)
    elapsed = time.monotonic() - started
    assert CAPACITY <= retries.count <= CAPACITY + elapsed * CAPACITY / REFILL_SECONDS
    stats = db.stats()
    assert stats.retry_count == retries.count
    assert 0 < stats.retry_refused_count <= CLIENTS
    assert stats.pool.checked_out == 0


async def test_control_without_a_budget_it_is_a_storm(make_db: Callable[..., Any], harness: Harness) -> None:
    """A budget that is never used up: every client makes all its attempts."""
    db = make_db(pool_size=4, max_overflow=0, pool_timeout_seconds=15, retry=QUICK, retry_budget=1_000_000)
    retries = db.hooks.add(Retries())

    async def client() -> None:
        with pytest.raises(SerializationError):
            await db.run_in_transaction(conflicting)

    await harness.together(*[client] * 8)
    assert retries.count == 8 * (QUICK.attempts - 1)


async def test_real_contention(make_db: Callable[..., Any], harness: Harness, backend: Backend) -> None:
    """Everybody increments one row under SERIALIZABLE: nothing lost, and attempts <= 3 x successes + a constant."""
    if backend.name == "sqlite":
        pytest.skip("SQLite's writers wait for their turn at BEGIN")
    db = make_db(pool_size=8, max_overflow=0, pool_timeout_seconds=15, retry=QUICK, retry_budget=CAPACITY)
    await db.execute("create table stock (id integer primary key, quantity integer not null)")
    await db.execute("insert into stock (id, quantity) values (1, 0)")
    retries = db.hooks.add(Retries())
    attempts = successes = failures = 0
    started = time.monotonic()

    async def once_more(tx: Any) -> None:
        nonlocal attempts
        attempts += 1
        now = await tx.fetch_value("select quantity from stock where id = 1")
        await tx.execute("update stock set quantity = :new where id = 1", {"new": now + 1})

    async def client() -> None:
        nonlocal successes, failures
        for _ in range(5):
            try:
                await db.run_in_transaction(once_more, isolation="serializable")
            except (SerializationError, DeadlockError):
                failures += 1
            else:
                successes += 1

    await harness.together(*[client] * CLIENTS)
    elapsed = time.monotonic() - started
    assert successes + failures == 5 * CLIENTS
    constant = CAPACITY + elapsed * CAPACITY / REFILL_SECONDS
    assert retries.count <= 2 * successes + constant
    # Each call makes its first attempt, also one that gives up.
    assert attempts - failures <= 3 * successes + constant
    assert await db.fetch_value("select quantity from stock where id = 1") == successes
    assert successes


@pytest.mark.parametrize("backend", [pytest.param("postgresql", marks=pytest.mark.postgresql),
                                     pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)  # fmt: skip
async def test_a_server_that_is_down(backend: Backend, world: str, harness: Harness) -> None:
    """Nobody is there: after the budget each call makes its one attempt and says so; after an outage it is earned."""
    assert backend.server is not None
    from prefiq_db.testing.machine import free_port

    url = backend.url.replace(f":{backend.server.port}/", f":{free_port()}/")
    db = make_database(world, url, retry=QUICK, retry_budget=CAPACITY)
    retries = db.hooks.add(Retries())
    errors: list[PrefiqDbError] = []
    started = time.monotonic()

    async def client() -> None:
        for _ in range(5):
            with pytest.raises(PrefiqDbError) as error:
                await db.fetch_value("select 1")
            errors.append(error.value)

    await harness.together(*[client] * 8)
    elapsed = time.monotonic() - started
    assert {error.kind for error in errors} == {ErrorKind.CONNECT_FAILED}
    assert CAPACITY <= retries.count <= CAPACITY + elapsed * CAPACITY / REFILL_SECONDS
    noted = [error for error in errors if getattr(error, "__notes__", None)]
    assert len(noted) == db.stats().retry_refused_count > 0
    assert "retry_budget=40" in noted[0].__notes__[0]
    await db.close()
