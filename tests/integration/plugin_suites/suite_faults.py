"""What once went wrong with the plugin: a test's name says whether it passes, fails or has an error at its teardown."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any

import pytest

from prefiq_db import AsyncDatabase, Database
from prefiq_db.errors import SchemaError, UsageError

everywhere = pytest.mark.databases("sqlite", "postgresql", "mariadb")


def is_clean(db: Database) -> None:
    assert [tuple(row) for row in db.fetch_all("select * from item")] == [("seed", 1)]
    assert [tuple(row) for row in db.fetch_all("select * from note")] == [("seed",)]
    db.execute("insert into note values ('seed')")  # no index refuses it
    with pytest.raises(SchemaError):
        db.fetch_all("select * from late")


@everywhere
@pytest.mark.parametrize(
    "sql",
    [
        "insert into note values ('seed')",  # the same row once more, in a table without a key
        "alter table item add column other integer",
        "create unique index late_index on note (line)",
        "create view late as select * from note",
    ],
    ids=["row", "column", "index", "view"],
)
def test_error_elsewhere(db: Database, prefiq_database: Any, sql: str) -> None:
    with Database(prefiq_database.url) as other:
        other.execute(sql)


@everywhere
@pytest.mark.parametrize("again", range(4))
def test_pass_after_that(db: Database, again: int) -> None:
    is_clean(db)


@pytest.mark.databases("postgresql")
def test_error_the_look_itself_fails(db: Database, prefiq_database: Any) -> None:
    db.execute("insert into note values ('lost')")
    prefiq_database.server.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        f" where datname = '{db.engine.url.database}' and pid <> pg_backend_pid()"
    )


@pytest.mark.databases("postgresql")
def test_pass_the_next_one_does_not_suffer_from_it(db: Database) -> None:
    is_clean(db)


# Not on MariaDB, where it works as well: asyncio warns of the transport that the loop left behind.
@pytest.mark.databases("sqlite", "postgresql")
def test_pass_a_loop_closed_too_early(async_db: AsyncDatabase) -> None:
    async def write() -> None:
        await async_db.execute("update item set qty = 2")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(write())
    loop.close()


@everywhere
def test_pass_nobody_waits_for_its_locks(db: Database) -> None:
    db.using(timeout=3).execute("update item set qty = 3")


@pytest.mark.databases("postgresql")
def test_pass_a_role_ends_with_its_transaction(db: Database) -> None:
    role = f"suite_{db.engine.url.database}"
    db.execute(f"create role {role}")
    before = tuple(db.fetch_one("select current_user, session_user"))
    for sql in (
        f"set local role {role}",
        f"set local session authorization {role}",
        f"set_config('role', '{role}', true)",
    ):
        with db.transaction() as tx:
            tx.execute(f"select {sql}" if sql.startswith("set_config") else sql)
            assert tx.fetch_value("select current_user") == role
        assert tuple(db.fetch_one("select current_user, session_user")) == before
    db.execute("insert into note values ('mine')")


@pytest.mark.databases("sqlite", "postgresql", "mariadb")
@pytest.mark.parametrize("sql", ["commit", "rollback"])
def test_either_sqlalchemys_text_that_ends_it(db: Database, sql: str) -> None:
    db.execute("insert into note values ('before')")
    with pytest.raises(UsageError, match="db_committed"), db.engine.begin() as connection:
        connection.exec_driver_sql(sql)
    with pytest.raises(UsageError, match="db_committed"):
        db.fetch_value("select 1")


@pytest.mark.databases("mariadb")
class TestOfUnittest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _take(self, db: Database) -> None:
        self.db = db

    def test_error_the_marker_cannot_hold_in_unittest(self) -> None:
        raise AssertionError("it ran elsewhere")


@pytest.mark.databases("mariadb")
def test_failure_the_marker_cannot_hold_during_the_test(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("db")
