"""No frame of ours that an error of bulk_insert() comes through holds a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefiq_db.errors import PrefiqDbError
from tests.twins.test_bulk_insert import ITEM, create, rows
from tests.twins.test_canary import VALUE
from tests.twins.test_silent_frames import frames_behind

_EMPTIED = ("prefiq_db", "sqlalchemy", "psycopg", "pymysql", "asyncmy", "aiosqlite")


@pytest.mark.parametrize("change", [{"sku": None}, {"sku": {VALUE}}, {"more": VALUE}], ids=["server", "value", "shape"])
async def test_frames_hold_no_value(db: Any, change: dict[str, Any]) -> None:
    await create(db)

    def given() -> Iterator[Any]:
        bad = rows(0, 60)
        for row in bad:
            row["sku"] = f"{VALUE[:9]}{row['id']}"
        bad[50] |= change
        yield from bad

    with pytest.raises(PrefiqDbError) as caught:
        await db.bulk_insert(ITEM, given())
    found = [
        f"{frame.f_globals['__name__']}.{frame.f_code.co_name}: {name}"
        for frame in frames_behind(caught.value)
        if frame.f_globals.get("__name__", "").partition(".")[0] in _EMPTIED
        for name, value in frame.f_locals.items()
        if VALUE[:9] in repr(value)
    ]
    assert found == []
