"""The conftest of the suites: the tables, and at the end of each worker what is left in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import Database

metadata = sa.MetaData()
item = sa.Table(
    "item",
    metadata,
    sa.Column("sku", sa.String(20), primary_key=True),
    sa.Column("qty", sa.Integer, nullable=False),
)
# Checked as late as COMMIT, where the database can.
part = sa.Table(
    "part",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(20), sa.ForeignKey("item.sku", deferrable=True, initially="DEFERRED")),
)
LEFT = Path(os.environ["SUITE_LEFT"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def prefiq_migrate() -> Callable[[Database], None]:
    def migrate(db: Database) -> None:
        with db.engine.begin() as connection:
            # MariaDB knows no deferred constraints, and SQLAlchemy says it all the same.
            is_mariadb = connection.dialect.name in ("mysql", "mariadb")
            if is_mariadb:
                for constraint in part.foreign_key_constraints:
                    constraint.deferrable = constraint.initially = None
            metadata.create_all(connection)
            if is_mariadb:
                connection.exec_driver_sql(
                    "create procedure commits() begin insert into item values ('procedure', 1); commit; end"
                )
        db.execute("insert into item values ('seed', 1)")

    return migrate


@pytest.fixture(scope="session", autouse=True)
def _count_what_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write what a connection of its own sees in each table when all tests of the worker have ended."""
    places: dict[str, Any] = request.getfixturevalue("_prefiq_places")
    yield
    left: dict[str, Any] = {}
    for name, place in places.items():
        with Database(place.url) as db:
            tables = sa.inspect(db.engine).get_table_names()
            left[name] = {table: db.fetch_value(f"select count(*) from {table}") for table in tables}
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    (LEFT / f"{worker}.json").write_text(json.dumps(left))
