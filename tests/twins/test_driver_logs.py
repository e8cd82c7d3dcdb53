"""psycopg logs a second error of executemany() with the server's words; through our connections it logs nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.conftest import Backend

CANARY = "canary-7f3a"
#: The second row is refused by the server, the third by the driver before it has read that.
ROWS = [(CANARY,), (CANARY,), (object(),)]
INSERT = "insert into person (email) values (%s)"

pytestmark = [
    pytest.mark.postgresql,
    pytest.mark.parametrize("backend", ["postgresql"], indirect=True),
]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return what psycopg has logged."""
    caplog.set_level(logging.DEBUG)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("psycopg")]


async def test_two_errors_of_many_rows_log_no_value(db: Any, world: str, said: Callable[[], list[str]]) -> None:
    await db.execute("create table person (email text primary key)")
    with pytest.raises(Exception, match="cannot adapt"):
        if world == "async":
            async with db.engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                await driver.cursor().executemany(INSERT, ROWS)
        else:
            with db.engine.connect() as connection:
                connection.connection.driver_connection.cursor().executemany(INSERT, ROWS)
    assert said() == []


@pytest.mark.parametrize("world", [pytest.param("sync", marks=pytest.mark.sync)])
def test_control_psycopgs_own_connection_logs_the_value(
    backend: Backend, world: str, said: Callable[[], list[str]]
) -> None:
    with psycopg.connect(backend.url) as connection:
        connection.execute("create table person (email text primary key)")
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
            connection.cursor().executemany(INSERT, ROWS)
        connection.rollback()
    assert CANARY in "".join(said())
