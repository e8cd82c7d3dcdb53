"""Fixtures that several suites of both worlds share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefiq_db import overrides
from prefiq_db.overrides import NO_SCOPES
from prefiq_db.testing import PgBouncer
from prefiq_db.testing.faults import FaultProxy
from prefiq_db.transaction import NO_TRANSACTIONS, ownership, request_here
from tests import through
from tests.clusters import find
from tests.conftest import Backend
from tests.twins.harness import drive, make_database


@pytest.fixture(autouse=True)
def nothing_in_force() -> None:
    """Forget what another test left open in this thread: with it, no statement takes the short way."""
    overrides._scoped.set(NO_SCOPES)
    ownership._ambient.set(NO_TRANSACTIONS)
    request_here.set(None)


@pytest.fixture
def run(world: str, loop_runner: asyncio.Runner) -> Callable[[Any], Any]:
    """Run a coroutine to its end, in this test's world."""
    return loop_runner.run if world == "async" else drive


@pytest.fixture
def usual_fields() -> dict[str, Any]:
    """Settings of all databases that :func:`opened` opens; a suite may have its own."""
    return {}


@pytest.fixture
def opened(world: str, run: Callable[[Any], Any], usual_fields: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a database of a URL in this test's world; it is closed afterwards."""
    made: list[Any] = []

    def make(url: str, **fields: Any) -> Any:
        made.append(make_database(world, url, **{**usual_fields, **fields}))
        return made[-1]

    yield make
    for db in made:
        run(db.close())


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultProxy]:
    """A proxy in front of the backend's server, or of the pooler before it, for faults."""
    assert backend.front is not None
    with FaultProxy(backend.front.host, backend.front.port, backend.name) as made:
        if through.IS_ON and backend.name == "postgresql":
            through.ports.add(made.port)
        yield made
        through.ports.discard(made.port)


@pytest.fixture
def pooler(backend: Backend) -> Iterator[str]:
    """A running pgbouncer in transaction mode in front of the server; yields the URL through it."""
    assert backend.server is not None
    with find("pgbouncer", PgBouncer, server=backend.server) as made:
        yield made.url(backend.url.rpartition("/")[2])
