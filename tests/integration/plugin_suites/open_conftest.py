"""A conftest whose migrations leave an engine of their own with an open connection."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from prefiq_db import Database

KEPT: list[Any] = []


@pytest.fixture(scope="session")
def prefiq_migrate() -> Callable[[Database], None]:
    def migrate(db: Database) -> None:
        server = sa.make_url(os.environ["PREFIQ_TEST_POSTGRESQL_URL"])
        url = server.set(drivername="postgresql+psycopg", database=db.engine.url.database)
        KEPT.append(sa.create_engine(url))
        with KEPT[0].begin() as connection:
            connection.exec_driver_sql("create table item (sku varchar(20) primary key, qty integer not null)")

    return migrate
