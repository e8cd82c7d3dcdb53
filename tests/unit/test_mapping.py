"""Rows become what ``into=`` asks for; the columns of a result are looked at once, and each result has its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData

from prefiq_db.errors import MappingError
from prefiq_db.execution.mapping import mapper


@dataclass
class Line:
    id: int
    sku: str = "none"


def _rows(names: list[str], *rows: tuple[Any, ...]) -> Any:
    return IteratorResult(SimpleResultMetaData(names), iter(rows)).all()


@pytest.mark.parametrize(("into", "expected"), [(dict, [{"id": 1}, {"id": 2}]), (Line, [Line(1), Line(2)])])
def test_rows_of_one_result(into: Any, expected: list[Any]) -> None:
    assert list(map(mapper(into), _rows(["id"], (1,), (2,)))) == expected


def test_rows_of_another_result_have_their_own_columns() -> None:
    make = mapper(Line)
    assert [make(row) for row in (*_rows(["id"], (1,)), *_rows(["sku", "id"], ("a", 2)), *_rows(["id"], (3,)))] == [
        Line(1), Line(2, "a"), Line(3),
    ]  # fmt: skip


@pytest.mark.parametrize(("into", "names"), [(dict, ["id", "id"]), (Line, ["sku"]), (Line, ["id", "more"])])
def test_columns_that_dont_fit_are_refused_for_every_row(into: Any, names: list[str]) -> None:
    make = mapper(into)
    for row in _rows(names, *[tuple(range(len(names)))] * 2):
        with pytest.raises(MappingError, match="column"):
            make(row)
