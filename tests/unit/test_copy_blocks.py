"""COPY's text is made below psycopg's ``write_row``: it must stay the same text, whatever psycopg's release."""

import datetime as dt
import decimal
import gc
import uuid
from typing import Any

from psycopg._copy_base import TextFormatter
from psycopg.adapt import Transformer
from psycopg.types.json import Json

from prefiq_db.dialects.bulk import by_column
from prefiq_db.dialects.bulk_postgresql import _blocks

ROWS: list[tuple[Any, ...]] = [
    (1, "plain", None, 1.5, decimal.Decimal("1.10"), True, b"\x00\\x", dt.date(2024, 2, 29)),
    (-(2**40), "tab\tline\n\\N back\\slash", "", float("inf"), decimal.Decimal("NaN"), False, b"", dt.date.max),
    (0, "wörd 漢字", uuid.UUID(int=5), 0.1, dt.timedelta(days=-1, seconds=5), dt.datetime(2024, 1, 1), Json([1]), None),
]


def as_psycopg_writes(rows: list[tuple[Any, ...]]) -> bytes:
    formatter = TextFormatter(Transformer(None))
    return b"".join([*[bytes(formatter.write_row(row)) for row in rows], bytes(formatter.end())])


def test_blocks_are_what_write_row_writes() -> None:
    rows = ROWS * 500
    blocks = list(_blocks(rows, Transformer(None)))
    assert len(blocks) > 1, "the rows need more than one block"
    assert b"".join(blocks) == as_psycopg_writes(rows)


def test_columns_are_taken_without_an_object_for_each_row() -> None:
    assert by_column(ROWS) == [list(column) for column in zip(*ROWS, strict=True)]
    rows = [(number, "text") for number in range(10 * gc.get_threshold()[0])]

    def collections() -> int:
        return sum(generation["collections"] for generation in gc.get_stats())

    gc.collect()
    before = collections()
    by_column(rows)
    assert collections() == before, "it sets off the garbage collector"
    list(zip(*rows, strict=True))
    assert collections() > before, "the control doesn't"
