"""Fixtures for MongoDB: a server of any kind, a scripted one, and databases of both worlds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.mongo.scripted_server import ScriptedServer
from tests.mongo.worlds import make_mongo
from tests.twins.harness import drive


@pytest.fixture
def make_db(world: str, loop_runner: asyncio.Runner) -> Iterator[Callable[..., Any]]:
    """Make document databases of this world: ``make_db(url, **fields)``. They are closed after the test."""
    run = loop_runner.run if world == "async" else drive
    made: list[Any] = []

    def make(url: str, **fields: Any) -> Any:
        made.append(make_mongo(world, url, **fields))
        return made[-1]

    yield make
    for database in reversed(made):
        run(database.close())


@pytest.fixture
def db(mongodb_server: Any, make_db: Callable[..., Any]) -> Any:
    """A document database on an empty database of a server, or of the stand-in."""
    return make_db(mongodb_server.url(mongodb_server.create_database()))


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A scripted primary of a replica set."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def quick() -> dict[str, Any]:
    """Settings under which failures are found soon; nothing is asserted about the time."""
    return {
        "connect_timeout_seconds": 2.0,
        "statement_timeout_seconds": 3.0,
        "retry": {"attempts": 4, "wait_initial_seconds": 0.001, "wait_max_seconds": 0.01, "total_seconds": 10},
    }
