"""Whatever a program does with overrides, each row is where it belongs, and no connection keeps anything of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from prefiq_db.config import RetryPolicy
from tests.conftest import Backend
from tests.twins.tenancy import SKUS, Tenants, make_database, prepare_main, two_tenants
from tests.twins.tenant_programs import OWNERS, TIMEOUT, Interpreter, owner_of, programs, states

PLACES = [
    pytest.param("sqlite", "schema", marks=pytest.mark.sqlite),
    pytest.param("postgresql", "schema", marks=pytest.mark.postgresql),
    pytest.param("postgresql", "database", marks=pytest.mark.postgresql),
    pytest.param("mariadb", "database", marks=pytest.mark.mariadb),
]
LIMITS = {
    "pool_timeout_seconds": 0.2,
    "lock_timeout_seconds": 0.2,
    "retry": RetryPolicy(attempts=1),
    "leak_after_seconds": 3600,
}
_few = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture
def tenants(
    backend: Backend,
    request: pytest.FixtureRequest,
    free_databases: dict[str, list[str]],
    db: Any,
    run: Callable[[Any], Any],
) -> Iterator[Tenants]:
    run(prepare_main(backend, db))
    with two_tenants(backend, request.param, free_databases) as made:
        yield made


async def _check(interpreter: Interpreter, clean: dict[str, set[Any]], usual: str) -> None:
    """Check what is stored, what the server says of each pooled connection, and that the next user has the settings."""
    db, backend = interpreter.db, interpreter.tenants.backend.name
    assert db.stats().pool.checked_out == 0
    assert not any(pool.checked_out for pool in db.stats().tenant_pools.values())
    for name, found in (await states(db, backend)).items():
        assert found <= clean[name], name
    await _check_rows(interpreter)
    for owner in OWNERS:
        view = db if owner is None else db.using(**interpreter.tenants.over(owner))
        assert str(await view.fetch_value(TIMEOUT[backend])) == usual


async def _check_rows(interpreter: Interpreter) -> None:
    for owner in OWNERS:
        rows = set(await interpreter.tenants.rows(interpreter.db, owner))
        assert {owner_of(sku) for sku in rows} <= {str(owner)}
        surely = {sku for whose, sku in interpreter.stored if whose == owner}
        perhaps = {sku for whose, sku in interpreter.perhaps if whose == owner}
        assert surely <= rows <= surely | perhaps


@pytest.mark.parametrize(("backend", "tenants"), PLACES, indirect=True)
@pytest.mark.parametrize("pool_size", [1, 2])
def test_no_override_stays_and_every_row_is_where_it_belongs(
    backend: Backend, tenants: Tenants, world: str, pool_size: int, run: Callable[[Any], Any]
) -> None:
    db = make_database(world, backend.url, pool_size=pool_size, max_overflow=0, **LIMITS)

    async def first_look() -> tuple[dict[str, set[Any]], str]:
        for owner in OWNERS:
            await (db if owner is None else db.using(**tenants.over(owner))).fetch_all(SKUS)
        return await states(db, backend.name), str(await db.fetch_value(TIMEOUT[backend.name]))

    clean, usual = run(first_look())
    stored: list[int] = []

    @_few
    @given(program=programs)
    def check(program: Any) -> None:
        async def example() -> None:
            interpreter = Interpreter(db, tenants, world == "async")
            for owner in OWNERS:  # what a failed example has left
                await (db if owner is None else db.using(**tenants.over(owner))).execute("delete from item")
            try:
                await interpreter.run(program)
            finally:
                stored.append(len(interpreter.stored))
            await _check(interpreter, clean, usual)

        run(example())

    try:
        check()
    finally:
        run(db.close())
    assert sum(stored) > 0


on_schemas = pytest.mark.parametrize(
    ("backend", "tenants"), [pytest.param("postgresql", "schema", marks=pytest.mark.postgresql)], indirect=True
)


def _sessions_of_the_pooler(url: str) -> dict[int, tuple[Any, ...]]:
    """Return what the server says of both sessions that pgbouncer lends out, by their number."""
    with closing(psycopg.connect(url)) as one, closing(psycopg.connect(url)) as other:
        found = {}
        for each in (one, other):  # in a transaction, so that the second one gets the other session
            row = each.execute(
                "select pg_backend_pid(), current_setting('search_path'), current_setting('statement_timeout'),"
                " current_setting('lock_timeout'), current_setting('default_transaction_read_only')"
            ).fetchone()
            assert row is not None
            found[row[0]] = row[1:]
        return found


@on_schemas
def test_nothing_stays_on_a_session_of_pgbouncers(
    backend: Backend, tenants: Tenants, world: str, pooler: str, run: Callable[[Any], Any]
) -> None:
    """Its sessions go from client to client, and none of them may know of a tenant."""
    db = make_database(world, pooler, pgbouncer=True, ssl_mode="disable", pool_size=2, max_overflow=0, **LIMITS)
    sessions = pooler.replace("postgresql://", "postgres://")
    assert len(_sessions_of_the_pooler(sessions)) == 2
    clean = set(_sessions_of_the_pooler(sessions).values())
    stored: list[int] = []

    @_few
    @given(program=programs)
    def check(program: Any) -> None:
        async def example() -> None:
            interpreter = Interpreter(db, tenants, world == "async")
            for owner in OWNERS:  # what a failed example has left
                await (db if owner is None else db.using(**tenants.over(owner))).execute("delete from item")
            await interpreter.run(program)
            stored.append(len(interpreter.stored))
            await _check_rows(interpreter)

        run(example())
        assert set(_sessions_of_the_pooler(sessions).values()) <= clean

    try:
        check()
    finally:
        run(db.close())
    assert sum(stored) > 0


@on_schemas
def test_control_a_search_path_that_stays_is_found(
    backend: Backend, tenants: Tenants, world: str, run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a plain SET in the place of SET LOCAL, the look at the connections finds it."""
    from prefiq_db.dialects.postgresql import _Postgresql

    db = make_database(world, backend.url, pool_size=1, max_overflow=0, **LIMITS)

    async def example() -> None:
        await db.fetch_all(SKUS)
        clean = await states(db, backend.name)
        messages = _Postgresql.begin_messages
        monkeypatch.setattr(
            _Postgresql,
            "begin_messages",
            lambda self, transaction: [
                text.replace("SET LOCAL search_path", "SET search_path") for text in messages(self, transaction)
            ],
        )
        await db.using(**tenants.over(0)).execute("delete from item")
        assert (await states(db, backend.name))[""] != clean[""]
        await db.close()

    run(example())
