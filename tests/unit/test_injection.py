"""A database that is given to applications takes the place of the one in their settings, and stays the giver's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from prefiq_db import AsyncDatabase, Database, bootstrap, bootstrap_async
from prefiq_db.errors import ProviderError, UsageError
from prefiq_db.testing import Injection


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without it, main would be a file here


def test_an_application_gets_what_it_is_given_and_leaves_it_open(tmp_path: Path) -> None:
    with Injection() as inject, Database("sqlite:///:memory:") as db:
        assert inject(db) is db
        with bootstrap(environ={}) as app:
            assert app.resolve("db") is app.resolve("db.main") is db
        assert db.fetch_value("select 1") == 1
    assert not list(tmp_path.iterdir())


def test_in_both_worlds() -> None:
    async def run() -> None:
        async with AsyncDatabase("sqlite:///:memory:") as db:
            with Injection() as inject:
                inject(db)
                app = await bootstrap_async(arguments={"database": {"mode": "async"}}, environ={})
                assert app.resolve("db") is db
                await app.ashutdown()
            assert await db.fetch_value("select 1") == 1

    asyncio.run(run())


def test_the_others_are_the_applications_own() -> None:
    arguments = {"databases": {"ledger": {"url": "sqlite:///:memory:"}}}
    with Injection() as inject, Database("sqlite:///:memory:") as db, Database("sqlite:///:memory:") as ledger:
        inject(db)
        with bootstrap(arguments=arguments, environ={}) as app:
            assert app.resolve("db.ledger") is not ledger
        inject(ledger, "ledger")
        with bootstrap(arguments=arguments, environ={}) as app:
            assert (app.resolve("db"), app.resolve("db.ledger")) == (db, ledger)


def test_it_ends_with_the_block() -> None:
    with Injection() as inject, Database("sqlite:///:memory:") as db:
        inject(db)
    with bootstrap(environ={}) as app:
        assert app.resolve("db") is not db


def test_the_wrong_world_is_refused() -> None:
    with Injection() as inject, Database("sqlite:///:memory:") as db:
        inject(db)
        with pytest.raises(ProviderError, match="ask for AsyncDatabase, and the test gave Database"):
            asyncio.run(bootstrap_async(arguments={"database": {"mode": "async"}}, environ={}))


def test_what_is_no_database_is_refused() -> None:
    with Injection() as inject, pytest.raises(UsageError, match="not str"):
        inject("sqlite:///app.db")  # type: ignore[type-var]
