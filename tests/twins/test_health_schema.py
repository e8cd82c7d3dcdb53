"""Readiness waits for the migrations, and asks no more once they have run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prefiq_db.errors import ErrorKind, SchemaError
from prefiq_db.health import AsyncHealthCheck, HealthCheck, Status
from prefiq_db.integrations.schema import schema_at_head
from prefiq_db.migrate.command_line import main
from tests.conftest import Backend


@pytest.fixture
def readiness(world: str, db: Any) -> Callable[[], Any]:
    """Ask a database of this world for its health and its schema."""
    options: dict[str, Any] = {"cache_seconds": 0, "deadline_seconds": 30}
    if world == "async":
        return AsyncHealthCheck(db, checks={"main:schema": schema_at_head(db)}, **options).readiness
    check = HealthCheck(db._wrapped, checks={"main:schema": schema_at_head(db._wrapped)}, **options)

    async def asked() -> Any:
        return check.readiness()

    return asked


async def test_a_service_without_tokens_needs_no_table_of_ours(db: Any, readiness: Callable[[], Any]) -> None:
    """It never runs prefiq_db's own migrations, and is ready; whoever asks for ``exactly_once`` waits for them."""
    assert (await readiness()).status is Status.PASS
    before = db.stats().statement_count
    assert (await readiness()).status is Status.PASS
    assert db.stats().statement_count == before + 1

    @db.transactional(exactly_once=True)
    async def pay(tx: Any) -> None:
        """Is never called: that it is there says enough."""

    assert (await readiness()).status is Status.FAIL


@pytest.mark.parametrize("tokens", [True, False])
async def test_a_service_may_say_what_it_uses(db: Any, world: str, tokens: bool) -> None:
    check = schema_at_head(getattr(db, "_wrapped", db), tokens=tokens)
    found = (await check()) if world == "async" else check()
    assert found.status is (Status.FAIL if tokens else Status.PASS)


async def test_whoever_began_with_our_history_needs_its_newest(
    db: Any, backend: Backend, readiness: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["up", "0001"]) == 0
    assert (await readiness()).status is Status.FAIL


async def test_a_service_is_ready_when_its_schema_is_at_its_head(
    db: Any, backend: Backend, readiness: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SchemaError, match="exactly_once"):
        async with db.transaction(exactly_once=True):
            pass
    behind = await readiness()
    assert (behind.status, behind.reason) == (
        Status.FAIL,
        "main:schema: the schema is behind the code: run the migrations",
    )
    monkeypatch.setenv("DB_URL", backend.url)
    assert main(["up"]) == 0
    assert (await readiness()).status is Status.PASS
    before = db.stats().statement_count
    assert (await readiness()).status is Status.PASS
    assert db.stats().statement_count == before + 1, "the health of the database, and nothing about the schema"


async def test_a_database_that_cannot_be_asked_is_told_by_its_kind(db: Any, readiness: Callable[[], Any]) -> None:
    await db.close()
    found = await readiness()
    assert [(each.name, each.kind) for each in found.findings] == [
        ("main:responseTime", ErrorKind.USAGE),
        ("main:schema", ErrorKind.USAGE),
    ]
    await db.open()
