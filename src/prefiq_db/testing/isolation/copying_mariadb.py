"""Copies of a database of MariaDB or MySQL, which can't copy one itself.

Making tables is slow there, and emptying them is not: a copy is made by sending again what made the template, and after
a test it is brought back to what it was. Only where a test changed the schema, the copy is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

_TABLES = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = DATABASE()"
_COLUMNS = (
    "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
    " AND COALESCE(generation_expression, '') = '' ORDER BY ordinal_position"
)
_ROUTINES = "SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = DATABASE()"
_TRIGGERS = "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
_TRIGGERED = "SELECT event_object_table FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
_DEFINER = re.compile(r" DEFINER=`[^`]*`@`[^`]*`")
_NEXT_KEY = re.compile(r" AUTO_INCREMENT=(\d+)")
# The rows come as they are: a key 0 is not the next number, and what they refer to may come later.
_AS_THEY_ARE = "SET foreign_key_checks = 0, unique_checks = 0, sql_mode = 'NO_AUTO_VALUE_ON_ZERO'"


@dataclass(frozen=True, slots=True)
class _Schema:
    """What made the objects of a database: tables and sequences, in this order, and the rest."""

    tables: Mapping[str, str]
    sequences: Mapping[str, str]
    others: tuple[str, ...]

    @classmethod
    def read(cls, cursor: Any) -> _Schema:
        tables = _all(cursor, _TABLES)
        others = [
            text
            for kind, name in _all(cursor, _ROUTINES)
            for text in _in_its_mode(cursor, f"SHOW CREATE {kind} `{name}`")
        ]
        others += [_created(cursor, f"SHOW CREATE VIEW `{name}`", 1) for name in _of(tables, "VIEW")]
        for (name,) in _all(cursor, _TRIGGERS):
            others += _in_its_mode(cursor, f"SHOW CREATE TRIGGER `{name}`")
        return cls(
            {name: _created(cursor, f"SHOW CREATE TABLE `{name}`", 1) for name in _of(tables, "BASE TABLE")},
            {name: _created(cursor, f"SHOW CREATE SEQUENCE `{name}`", 1) for name in _of(tables, "SEQUENCE")},
            tuple(others),
        )

    def misses_only(self, extra: set[str], other: _Schema) -> bool:
        """Return whether *other* is this schema, but for the tables *extra*."""
        theirs = {name: _NEXT_KEY.sub("", text) for name, text in other.tables.items() if name not in extra}
        mine = {name: _NEXT_KEY.sub("", text) for name, text in self.tables.items()}
        return (mine, self.sequences, self.others) == (theirs, other.sequences, other.others)


class Template:
    """A template, from which copies are made and restored. Scheduled events are left out: they would run.

    Args:
        connection: one to the template; it is closed.
    """

    def __init__(self, connection: Any, database: str) -> None:
        self._database = database
        with closing(connection), connection.cursor() as cursor:
            self._schema = _Schema.read(cursor)
            self._filled = {
                name: ", ".join(f"`{column}`" for (column,) in _all(cursor, _COLUMNS, name))
                for name in self._schema.tables
                if _all(cursor, f"SELECT 1 FROM `{name}` LIMIT 1")
            }
            self._checksums = _checksums(cursor, self._schema.tables)
            self._triggered = {name for (name,) in _all(cursor, _TRIGGERED)}

    def copy_to(self, connection: Any) -> None:
        """Make a copy in the empty database that *connection* is connected to; it is closed."""
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(_AS_THEY_ARE)
            for text in (*self._schema.sequences.values(), *self._schema.tables.values()):
                cursor.execute(text)
            for name in self._filled:
                self._fill(cursor, name)
            for text in self._schema.others:
                cursor.execute(text)

    def restore(self, connection: Any) -> bool:
        """Bring a copy back to what it was; return whether that could be done. *connection* is closed."""
        with closing(connection), connection.cursor() as cursor:
            now = _Schema.read(cursor)
            extra = now.tables.keys() - self._schema.tables.keys()
            if not self._schema.misses_only(extra, now):
                return False
            checksums = _checksums(cursor, self._schema.tables)
            changed = {name for name in self._schema.tables if checksums[name] != self._checksums[name]}
            if changed & self._triggered:
                return False  # a trigger would change what is filled in again
            cursor.execute(_AS_THEY_ARE)
            for name in extra:
                cursor.execute(f"DROP TABLE `{name}`")
            for name in changed:
                cursor.execute(f"DELETE FROM `{name}`")
                self._fill(cursor, name)
            for name, text in self._schema.tables.items():
                if text != now.tables[name]:
                    found = _NEXT_KEY.search(text)
                    cursor.execute(f"ALTER TABLE `{name}` AUTO_INCREMENT = {found[1] if found else 1}")
            for name in self._schema.sequences:
                cursor.execute(f"ALTER SEQUENCE `{name}` RESTART")
            return True

    def _fill(self, cursor: Any, name: str) -> None:
        columns = self._filled.get(name)
        if columns is not None:
            cursor.execute(f"INSERT INTO `{name}` ({columns}) SELECT {columns} FROM `{self._database}`.`{name}`")


def _of(tables: list[Any], wanted: str) -> list[str]:
    return [name for name, kind in tables if kind == wanted]


def _checksums(cursor: Any, tables: Mapping[str, str]) -> dict[str, Any]:
    if not tables:
        return {}
    rows = _all(cursor, f"CHECKSUM TABLE {', '.join(f'`{name}`' for name in tables)}")
    return {name.split(".", 1)[1]: checksum for name, checksum in rows}


def _all(cursor: Any, sql: str, *arguments: str) -> list[Any]:
    cursor.execute(sql, arguments or None)
    return list(cursor.fetchall())


def _in_its_mode(cursor: Any, sql: str) -> Iterator[str]:
    """Return what makes a routine or a trigger, which keeps the mode that it was made in."""
    yield f"SET sql_mode = '{_all(cursor, sql)[0][1]}'"
    yield _created(cursor, sql, 2)


def _created(cursor: Any, sql: str, column: int) -> str:
    return _DEFINER.sub("", str(_all(cursor, sql)[0][column]), count=1)
