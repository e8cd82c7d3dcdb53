"""Notes which statements take the short way. In a file of its own, whose frames are nobody's application."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prefiq_db.core import statements
from prefiq_db.execution.awaited_one_shot import Unusual
from prefiq_db.execution.one_shot import UNUSUAL, ShortRoad
from prefiq_db.execution.prepared import Prepared
from prefiq_db.origin import skip_file

skip_file(__file__)


@contextmanager
def noted_short_way() -> Iterator[list[tuple[str, str]]]:
    """Collect the kinds and the texts of the statements that take the short way, in either world."""
    taken: list[tuple[str, str]] = []
    shoot, shoot_awaited = ShortRoad.shoot, statements.shoot_awaited

    def noted(self: Any, known: Prepared, statement: Any, *arguments: Any) -> Any:
        fetched = shoot(self, known, statement, *arguments)
        if fetched is not UNUSUAL:
            taken.append((type(statement).__name__, known.sql))
        return fetched

    async def noted_awaited(road: Any, known: Prepared, statement: Any, *arguments: Any) -> Any:
        fetched = await shoot_awaited(road, known, statement, *arguments)
        if type(fetched) is not Unusual:
            taken.append((type(statement).__name__, known.sql))
        return fetched

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShortRoad, "shoot", noted)
        patch.setattr(statements, "shoot_awaited", noted_awaited)
        yield taken
