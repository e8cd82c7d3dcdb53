"""The rows of a stream are made when they are taken: whatever takes them gets rows, never what they are made of."""

import logging
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row

from prefiq_db import Database
from prefiq_db.types import ExactDecimal

QUERY = "select value as number, value / 4.0 as price from json_each('[1, 2, 3, 4, 5]')"


@pytest.fixture(params=[logging.WARNING, logging.DEBUG], ids=["quiet", "each row is logged"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    logger = logging.getLogger("sqlalchemy.engine")
    before = logger.level
    logger.setLevel(request.param)  # SQLAlchemy looks at it when the engine is made
    try:
        with Database(f"sqlite:///{tmp_path / 'rows.db'}") as database:
            yield database
    finally:
        logger.setLevel(before)


def taken_in_every_way(db: Database) -> list[Any]:
    rows: list[Any] = []
    with db.stream(QUERY, batch_size=4) as stream:
        rows.append(next(stream))
        rows.append(next(iter(stream)))
        for batch in stream.batches():
            rows += batch
    return rows


def test_every_way_to_take_them_gives_rows(db: Database) -> None:
    rows = taken_in_every_way(db)
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert {type(row) for row in rows} == {Row}
    assert rows == db.fetch_all(QUERY)


def test_types_and_into_convert_them(db: Database) -> None:
    types = {"price": ExactDecimal(6, 2)}
    with db.stream(QUERY, batch_size=2, types=types) as stream:
        assert [row.price for row in stream] == [Decimal(number) / 4 for number in range(1, 6)]
    with db.stream(QUERY, batch_size=2, into=dict) as stream:
        assert [row["number"] for row in stream] == [1, 2, 3, 4, 5]


def test_an_end_in_the_middle_of_a_batch_ends_an_iterator_over_it(db: Database) -> None:
    with db.stream(QUERY, batch_size=5) as stream:
        rows = iter(stream)
        assert next(rows).number == 1
    with pytest.raises(Exception, match="closed"):
        next(rows)
