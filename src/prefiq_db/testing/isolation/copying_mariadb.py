"""Copy a database of MariaDB or MySQL: what made its tables is read once, and sent again for each copy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_TABLES = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE()"
_COLUMNS = (
    "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
    " AND COALESCE(generation_expression, '') = '' ORDER BY ordinal_position"
)
_ROUTINES = "SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = DATABASE()"
_TRIGGERS = "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
_DEFINER = re.compile(r" DEFINER=`[^`]*`@`[^`]*`")


@dataclass(frozen=True, slots=True)
class CopyScript:
    """The statements that make a copy. Scheduled events are left out: they would run."""

    statements: tuple[str, ...]

    @classmethod
    def of(cls, connection: Any, database: str) -> CopyScript:
        """Return the script that copies *database*, to which *connection* is connected."""
        with connection.cursor() as cursor:
            return cls(tuple(_statements(cursor, database)))

    def run(self, connection: Any) -> None:
        """Make the copy in the empty database that *connection* is connected to."""
        with connection.cursor() as cursor:
            for statement in self.statements:
                cursor.execute(statement)


def _statements(cursor: Any, database: str) -> Iterator[str]:
    yield "SET foreign_key_checks = 0, unique_checks = 0"
    tables = _all(cursor, _TABLES)
    names = [name for name, kind in tables if kind == "BASE TABLE"]
    for name, kind in tables:
        if kind == "SEQUENCE":
            yield _created(cursor, f"SHOW CREATE SEQUENCE `{name}`", 1)
    for name in names:
        yield _created(cursor, f"SHOW CREATE TABLE `{name}`", 1)
    for name in names:
        if _all(cursor, f"SELECT 1 FROM `{name}` LIMIT 1"):
            columns = ", ".join(f"`{column}`" for (column,) in _all(cursor, _COLUMNS, name))
            yield f"INSERT INTO `{name}` ({columns}) SELECT {columns} FROM `{database}`.`{name}`"
    for kind, name in _all(cursor, _ROUTINES):
        yield _created(cursor, f"SHOW CREATE {kind} `{name}`", 2)
    for name, kind in tables:
        if kind == "VIEW":
            yield _created(cursor, f"SHOW CREATE VIEW `{name}`", 1)
    for (name,) in _all(cursor, _TRIGGERS):
        yield _created(cursor, f"SHOW CREATE TRIGGER `{name}`", 2)
    yield "SET foreign_key_checks = 1, unique_checks = 1"


def _all(cursor: Any, sql: str, *arguments: str) -> list[Any]:
    cursor.execute(sql, arguments or None)
    return list(cursor.fetchall())


def _created(cursor: Any, sql: str, column: int) -> str:
    return _DEFINER.sub("", str(_all(cursor, sql)[0][column]), count=1)
