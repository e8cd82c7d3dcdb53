"""What the chaos tests share. ``PREFIQ_CHAOS_TRANSFERS=10000`` makes the short version the long one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from prefiq_db import AsyncDatabase, Database, DatabaseSettings
from prefiq_db.engines import make_engine
from prefiq_db.migrate import migrations_directory
from prefiq_db.testing.faults import Bank, FaultProxy
from prefiq_db.testing.servers import SERVERS
from tests.chaos.controls import TransferFunction
from tests.conftest import Backend

TRANSFERS_VARIABLE = "PREFIQ_CHAOS_TRANSFERS"
_TRANSFERS = 100

#: A test for servers only: SQLite has no wire.
wired = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in SERVERS], indirect=True
)


@pytest.fixture(scope="session")
def transfers() -> int:
    """How many transfers a test makes."""
    return int(os.environ.get(TRANSFERS_VARIABLE) or _TRANSFERS)


@pytest.fixture
def bank(backend: Backend, tmp_path: Any) -> Bank:
    """A bank with its tables on the backend."""
    if backend.server is None:
        made = Bank(backend.url.removeprefix("sqlite:///"))
    else:
        made = Bank(backend.server, backend.url.rpartition("/")[2])
    made.create()
    return made


@pytest.fixture
def tokens(backend: Backend) -> None:
    """The table of commit tokens on the backend."""
    engine = make_engine(DatabaseSettings(url=backend.url), name="tokens")
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultProxy]:
    """A fault proxy before the backend's server; such a test is :data:`wired`."""
    assert backend.server is not None
    with FaultProxy(backend.server) as made:
        yield made


def run_bank(
    world: str, bank: Bank, url: str, count: int, *, transfer: TransferFunction | None = None, **options: Any
) -> None:
    """Run transfers on a database of *world*."""
    workers = options.pop("workers", 8)

    async def run_async() -> None:
        async with AsyncDatabase(url, **options) as db:
            await bank.run_async(db, count, workers=workers, transfer=transfer)

    if world == "async":
        asyncio.run(run_async())
        return
    with Database(url, **options) as db:
        bank.run(db, count, workers=workers, transfer=transfer)
