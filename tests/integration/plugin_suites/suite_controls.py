"""Tests that do what they must not: the run fails as the names say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database

CANARY = "canary-7f3a"
KEPT: list[Any] = []
_PROGRAM = """
import sys
from prefiq_db import Database
with Database(sys.argv[1]) as db:
    db.execute("update item set qty = 2")
"""


def test_error_another_connection(db: Database, prefiq_database: Any) -> None:
    assert db.fetch_value("select count(*) from item") == 1
    with Database(prefiq_database.url) as other:
        other.execute("insert into item values (:sku, 1)", {"sku": CANARY})


def test_pass_the_next_one_is_clean(db: Database) -> None:
    assert [tuple(row) for row in db.fetch_all("select sku, qty from item")] == [("seed", 1)]


def test_error_another_process(db: Database, prefiq_database: Any) -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM, prefiq_database.url], check=True)


def test_error_the_drivers_own_commit(db: Database) -> None:
    with db.engine.connect() as connection:
        connection.exec_driver_sql("delete from item")
        driver: Any = connection.connection.dbapi_connection
        driver.commit()


async def test_error_async_drivers_own_commit(async_db: AsyncDatabase) -> None:
    async with async_db.engine.connect() as connection:
        await connection.exec_driver_sql("insert into item values ('b', 1)")
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await driver.commit()


@pytest.mark.databases("mariadb")
def test_error_a_procedure_that_commits(db: Database, prefiq_database: Any) -> None:
    with pytest.raises(Exception, match="has ended"):
        db.execute("call commits()")


@pytest.mark.databases("postgresql", "mariadb")
def test_error_a_table_made_elsewhere(db: Database, prefiq_database: Any) -> None:
    with Database(prefiq_database.url) as other:
        other.execute("create table made (id integer)")


def test_pass_all_is_clean_again(db: Database) -> None:
    assert [tuple(row) for row in db.fetch_all("select sku, qty from item")] == [("seed", 1)]


def test_error_a_connection_is_leaked(db: Database) -> None:
    KEPT.append(db.engine.connect())


async def test_error_an_async_connection_is_leaked(async_db: AsyncDatabase) -> None:
    KEPT.append(await async_db.engine.connect())


def test_error_a_connection_of_the_committed_is_leaked(db_committed: Database) -> None:
    KEPT.append(db_committed.engine.connect())


def test_failure_shows_statements(db: Database) -> None:
    db.execute("insert into item values (:sku, 1)", {"sku": CANARY})
    raise AssertionError("meant")


async def test_failure_shows_statements_async(async_db: AsyncDatabase) -> None:
    await async_db.execute("insert into item values (:sku, 1)", {"sku": CANARY})
    await asyncio.sleep(0)
    raise AssertionError("meant")


@pytest.mark.max_statements(1)
def test_failure_too_many_statements(db: Database) -> None:
    db.fetch_value("select 1")
    db.fetch_value("select 2")


@pytest.mark.no_n_plus_one
async def test_failure_n_plus_one(async_db: AsyncDatabase) -> None:
    for number in range(3):
        await async_db.fetch_value("select :number", {"number": number})


@pytest.mark.max_statements(1)
def test_failure_a_marker_without_db() -> None:
    pass


def test_error_both_databases(db: Database, async_db: AsyncDatabase) -> None:
    pass
