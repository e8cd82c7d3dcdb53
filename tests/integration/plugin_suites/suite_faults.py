"""What once went wrong with the plugin: a test's name says whether it passes, fails or has an error at its teardown."""

from __future__ import annotations

from typing import Any

import pytest

from prefiq_db import Database
from prefiq_db.errors import SchemaError

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
