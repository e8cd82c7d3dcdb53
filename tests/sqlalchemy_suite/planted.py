"""A plugin with faults on purpose, on SQLite: each has to be found, or the suite shows nothing."""

from __future__ import annotations

from typing import Any

from prefiq_db.dialects.sqlite import PrefiqSqlite
from tests.sqlalchemy_suite import differences
from tests.sqlalchemy_suite.differences import Difference


def _without_the_last(self: Any, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
    super(PrefiqSqlite, self).do_executemany(cursor, statement, parameters[:-1], context)


PrefiqSqlite.do_executemany = _without_the_last  # type: ignore[method-assign]
PrefiqSqlite.supports_sane_rowcount = False

differences.DIFFERENCES += (
    Difference("passes", "", "", ("PingTest.test_do_ping",)),
    Difference("is left out", "", "", ("FetchLimitOffsetTest.test_expr_fetch_offset",)),
    Difference("isn't there", "", "", ("PingTest.test_of_nothing",)),
    Difference("fails for another reason", "", "nobody says this", ("IsolationLevelTest.test_all_levels",)),
)
