"""What the chaos tests share. ``PREFIQ_CHAOS_TRANSFERS=10000`` makes the short version the long one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database
from prefiq_db.testing.faults import Bank, BankReport, FaultProxy
from prefiq_db.testing.servers import SERVERS
from tests.chaos.controls import TransferFunction
from tests.chaos.table import Line, table
from tests.conftest import Backend
from tests.twins.support import upgrade_schema

TRANSFERS_VARIABLE = "PREFIQ_CHAOS_TRANSFERS"
_TRANSFERS = 100
_LONG = 1000  # transfers from which on a version is a long one
_LINES = pytest.StashKey[list[Line]]()

Record = Callable[[str, BankReport, int], None]

#: A test for servers only: SQLite has no wire.
wired = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=getattr(pytest.mark, name)) for name in SERVERS], indirect=True
)


TRANSFERS = int(os.environ.get(TRANSFERS_VARIABLE) or _TRANSFERS)
IS_LONG = TRANSFERS >= _LONG


def mostly_in(world: str) -> pytest.MarkDecorator:
    """Mark a test whose short version takes long: it runs in *world* only, and the long version in both."""
    worlds = ("sync", "async") if IS_LONG else (world,)
    parameters = [pytest.param(each, marks=getattr(pytest.mark, each)) for each in worlds]
    return pytest.mark.parametrize("world", parameters, indirect=True)


@pytest.fixture(scope="session")
def transfers() -> int:
    """How many transfers a test makes."""
    return TRANSFERS


@pytest.fixture(scope="session")
def is_long() -> bool:
    """Whether this is the long version."""
    return IS_LONG


@pytest.fixture(scope="session")
def late_seconds(is_long: bool) -> float:
    """How late a COMMIT comes at most."""
    return 5.0 if is_long else 0.5


@pytest.fixture
def add_line(pytestconfig: pytest.Config) -> Callable[[Line], None]:
    """Add a line to the table at the end of the run."""
    lines = pytestconfig.stash.setdefault(_LINES, [])
    return lines.append


@pytest.fixture
def record(request: pytest.FixtureRequest, add_line: Callable[[Line], None]) -> Record:
    """Add the report of a bank to the table, by the name of the fault and its hits."""
    world, backend = request.getfixturevalue("world"), request.getfixturevalue("backend")
    return lambda fault, report, hits: add_line(Line.of(fault, world, backend.name, report, hits))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    lines = config.stash.get(_LINES, [])
    if lines and os.environ.get(TRANSFERS_VARIABLE):
        terminalreporter.section("chaos")
        terminalreporter.write_line(table(lines))


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
    upgrade_schema(backend)


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultProxy]:
    """A fault proxy before the backend's server; such a test is :data:`wired`."""
    assert backend.server is not None
    with FaultProxy(backend.server) as made:
        yield made


@asynccontextmanager
async def closing_async(db: AsyncDatabase) -> AsyncIterator[AsyncDatabase]:
    """Close *db* at the end; at the beginning nothing is opened."""
    try:
        yield db
    finally:
        await db.close()


def run_in(world: str, work: Callable[[Any], Any], url: str, **options: Any) -> None:
    """Run *work* with a database of *world*; not opened before, which faults could hit, too, and nobody repeats."""

    async def run_async() -> None:
        async with closing_async(AsyncDatabase(url, **options)) as db:
            await work(db)

    if world == "async":
        asyncio.run(run_async())
        return
    with closing(Database(url, **options)) as db:
        work(db)


def run_bank(
    world: str, bank: Bank, url: str, count: int, *, transfer: TransferFunction | None = None, **options: Any
) -> None:
    """Run transfers on a database of *world*, see :func:`run_in`."""
    workers = options.pop("workers", 8)
    run = bank.run if world == "sync" else bank.run_async
    run_in(world, lambda db: run(db, count, workers=workers, transfer=transfer), url, **options)
