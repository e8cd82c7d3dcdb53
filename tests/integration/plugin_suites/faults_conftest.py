"""The conftest of suite_faults.py: a table without a key, and one with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefiq_db import Database


@pytest.fixture(scope="session")
def prefiq_migrate() -> Callable[[Database], None]:
    def migrate(db: Database) -> None:
        db.execute("create table item (sku varchar(20) primary key, qty integer not null)")
        db.execute("create table note (line varchar(20))")
        db.execute("insert into item values ('seed', 1)")
        db.execute("insert into note values ('seed')")

    return migrate
