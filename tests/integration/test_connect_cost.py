"""What a connection costs before its first statement."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from prefiq_db import AsyncDatabase, Database
from prefiq_db.testing import MariaDbServer


def test_a_connection_that_verifies_nothing_loads_no_certificates(
    mariadb_server: MariaDbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading the system's certificates takes 20 ms of processor time; ``prefer`` has no use for them."""

    def load(self: ssl.SSLContext, *args: object) -> None:
        raise AssertionError("certificates were loaded")

    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", load)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    with Database(mariadb_server.url(), pool_size=2) as db:
        assert db.fetch_value("select 1") == 1

    async def body() -> None:
        async with AsyncDatabase(mariadb_server.url(), pool_size=2) as adb:
            assert await adb.fetch_value("select 1") == 1

    asyncio.run(body())
