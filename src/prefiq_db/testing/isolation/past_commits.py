"""Find what is committed in a database while a test runs whose own work is all rolled back.

Whatever is found went past the fixture: by another connection, another process, the driver's own commit(), or a
statement that commits by itself.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """What was committed in one table.

    Attributes:
        written: how many rows are there that were not: inserted or changed.
        gone: how many rows are not there that were: deleted or changed.
        what: ``created`` or ``dropped`` if it is the table itself.
    """

    table: str
    written: int = 0
    gone: int = 0
    what: str = ""

    def __str__(self) -> str:
        if self.what:
            return f"table {self.table}: {self.what}"
        return f"table {self.table}: {self.written} rows written, {self.gone} rows gone"


class Watch(ABC):
    """Watches one copy of the template, on a connection of its own."""

    @abstractmethod
    def start(self) -> None:
        """Note where the database stands."""

    @abstractmethod
    def changes(self) -> list[Change]:
        """Return what was committed since then."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""


def _tables_changed(now: set[str], before: set[str]) -> Iterator[Change]:
    for table in sorted(now ^ before):
        yield Change(table, what="created" if table in now else "dropped")


class SqliteWatch(Watch):
    """SQLite counts the commits of other connections (``data_version``); what they did, the template tells."""

    def __init__(self, database: str, template: str) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._connection.execute("ATTACH DATABASE ? AS pristine", (template,))
        self._version = 0

    def _data_version(self) -> int:
        return int(self._connection.execute("PRAGMA main.data_version").fetchone()[0])

    def start(self) -> None:
        self._version = self._data_version()

    def changes(self) -> list[Change]:
        if self._data_version() == self._version:
            return []
        now, before = self._tables("main"), self._tables("pristine")
        found = list(_tables_changed(now, before))
        for table in sorted(now & before):
            written, gone = self._count("main", "pristine", table), self._count("pristine", "main", table)
            if written or gone:
                found.append(Change(table, written, gone))
        return found

    def _tables(self, schema: str) -> set[str]:
        rows = self._connection.execute(
            f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        )
        return {name for (name,) in rows}

    def _count(self, one: str, other: str, table: str) -> int:
        quoted = '"' + table.replace('"', '""') + '"'
        sql = f"SELECT count(*) FROM (SELECT * FROM {one}.{quoted} EXCEPT SELECT * FROM {other}.{quoted})"
        return int(self._connection.execute(sql).fetchone()[0])

    def close(self) -> None:
        self._connection.close()


_PG_TABLES = (
    "SELECT format('%I.%I', nspname, relname) FROM pg_class JOIN pg_namespace AS space ON space.oid = relnamespace"
    " WHERE relkind = 'r' AND relpersistence <> 't' AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'"
)
# A transaction that writes has a number, and the server knows what became of each. Numbers count for all databases of
# a server, so a commit elsewhere costs a closer look, and no more.
_PG_COMMITTED = (
    "SELECT count(*) FROM generate_series(%s::int8, pg_snapshot_xmax(pg_current_snapshot())::text::int8 - 1) AS number"
    " WHERE pg_xact_status(number::text::xid8) = 'committed'"
)


class PostgresqlWatch(Watch):
    """PostgreSQL tells of each transaction whether it was committed, and each row tells its transaction."""

    def __init__(self, connection: Any, template: Any) -> None:
        self._connection = connection
        self._first = 0
        # The template must have no connections when it is copied again.
        with template:
            self._before = {table: self._count(template, table) for table in self._tables(template)}

    def start(self) -> None:
        rows = self._connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchall()
        self._first = int(rows[0][0])

    def changes(self) -> list[Change]:
        if not self._connection.execute(_PG_COMMITTED, (self._first,)).fetchone()[0]:
            return []
        now = self._tables(self._connection)
        found = list(_tables_changed(now, set(self._before)))
        for table in sorted(now & self._before.keys()):
            count = self._count(self._connection, table)
            written = self._count(self._connection, table, f"WHERE xmin::text::int8 >= {self._first % 2**32}")
            gone = self._before[table] - (count - written)
            if written or gone:
                found.append(Change(table.removeprefix("public."), written, gone))
        return found

    def _tables(self, connection: Any) -> set[str]:
        return {name for (name,) in connection.execute(_PG_TABLES).fetchall()}

    def _count(self, connection: Any, table: str, where: str = "") -> int:
        return int(connection.execute(f"SELECT count(*) FROM {table} {where}").fetchone()[0])

    def close(self) -> None:
        self._connection.close()


_MARIADB_TABLES = (
    "SELECT table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_schema = %s"
)


class MariadbWatch(Watch):
    """MariaDB has no count of commits for one database: the checksums of its tables are compared."""

    def __init__(self, connection: Any, database: str, template: str) -> None:
        self._connection, self._database, self._template = connection, database, template
        self._before: dict[str, Any] = {}
        self._pristine = self._tables(template)

    def start(self) -> None:
        self._before = self._checksums()

    def changes(self) -> list[Change]:
        now = self._checksums()
        if now == self._before:
            return []
        found = list(_tables_changed(set(now), self._pristine))
        for table in sorted(now.keys() & self._pristine):
            if now[table] != self._before.get(table):
                written = self._count(self._database, self._template, table)
                found.append(Change(table, written, self._count(self._template, self._database, table)))
        return found

    def _rows(self, sql: str, *arguments: str) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments or None)
            return list(cursor.fetchall())

    def _tables(self, database: str) -> set[str]:
        return {name for (name,) in self._rows(_MARIADB_TABLES, database)}

    def _checksums(self) -> dict[str, Any]:
        tables = sorted(self._tables(self._database))
        if not tables:
            return {}
        named = ", ".join(f"`{table}`" for table in tables)
        return {name.split(".", 1)[1]: checksum for name, checksum in self._rows(f"CHECKSUM TABLE {named}")}

    def _count(self, one: str, other: str, table: str) -> int:
        differing = f"SELECT * FROM `{one}`.`{table}` EXCEPT SELECT * FROM `{other}`.`{table}`"
        return int(self._rows(f"SELECT COUNT(*) FROM ({differing}) AS differing")[0][0])

    def close(self) -> None:
        self._connection.close()
