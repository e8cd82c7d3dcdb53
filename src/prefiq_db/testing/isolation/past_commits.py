"""Find what is committed in a database while a test runs whose own work is all rolled back.

Whatever is found went past the fixture: by another connection, another process, the driver's own commit(), or a
statement that commits by itself.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Change:
    """What was committed in one table, or to the schema.

    Attributes:
        name: of the table, the index, ...
        written: how many rows are there that were not: inserted or changed.
        gone: how many rows are not there that were: deleted or changed.
        what: ``created``, ``dropped`` or ``changed`` if it is the table itself, the index, ...
        kind: ``table``, ``index``, ``view``, ...
    """

    name: str
    written: int = 0
    gone: int = 0
    what: str = ""
    kind: str = "table"

    def __str__(self) -> str:
        done = self.what or f"{self.written} rows written, {self.gone} rows gone"
        return f"{self.kind} {self.name}: {done}"


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


#: What made each object of a schema, or a digest of it, by its kind and name.
_Schema = Mapping[tuple[str, str], str]


def _schema(rows: Any) -> _Schema:
    return {(str(kind), str(name)): str(text) for kind, name, text in rows}


def _schema_changes(now: _Schema, before: _Schema) -> list[Change]:
    changed = sorted(each for each in now.keys() | before.keys() if now.get(each) != before.get(each))
    return [Change(name, what=_what((kind, name), now, before), kind=kind) for kind, name in changed]


def _what(key: tuple[str, str], now: _Schema, before: _Schema) -> str:
    return "created" if key not in before else "dropped" if key not in now else "changed"


def _same_tables(now: _Schema, before: _Schema) -> list[str]:
    """Return the tables whose rows can be compared: an altered one has other columns."""
    return sorted(name for kind, name in now if kind == "table" and now[kind, name] == before.get((kind, name)))


def _rows_changed(table: str, written: int, gone: int, more: int) -> Iterator[Change]:
    """Return the change of a table with *written* new rows and *gone* old ones, and *more* rows than before.

    The first two don't count a row twice that is there twice, as it may be in a table without a key.
    """
    twice = more - (written - gone)
    written, gone = written + max(0, twice), gone + max(0, -twice)
    if written or gone:
        yield Change(table, written, gone)


_SQLITE_SCHEMA = "SELECT type, name, sql FROM {schema}.sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'"


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
        now, before = self._schema("main"), self._schema("pristine")
        found = _schema_changes(now, before)
        for table in _same_tables(now, before):
            written, gone = self._differing("main", "pristine", table), self._differing("pristine", "main", table)
            found += _rows_changed(table, written, gone, self._count("main", table) - self._count("pristine", table))
        return found

    def _schema(self, schema: str) -> _Schema:
        return _schema(self._connection.execute(_SQLITE_SCHEMA.format(schema=schema)))

    def _differing(self, one: str, other: str, table: str) -> int:
        quoted = _quoted(table)
        sql = f"SELECT count(*) FROM (SELECT * FROM {one}.{quoted} EXCEPT SELECT * FROM {other}.{quoted})"
        return int(self._connection.execute(sql).fetchone()[0])

    def _count(self, schema: str, table: str) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM {schema}.{_quoted(table)}").fetchone()[0])

    def close(self) -> None:
        self._connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_PG_OURS = "nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'"
_PG_SCHEMA = f"""
SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'i' THEN 'index' WHEN 'v' THEN 'view' ELSE 'relation' END,
  format('%I.%I', nspname, relname),
  concat(relkind, reloptions, relacl, relrowsecurity, pg_get_indexdef(rel.oid), CASE WHEN relkind IN ('v', 'm')
    THEN pg_get_viewdef(rel.oid) END, (SELECT string_agg(concat(attname, ' ', format_type(atttypid, atttypmod),
    attnotnull, attgenerated, attidentity, pg_get_expr(adbin, adrelid)), ',' ORDER BY attnum)
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = rel.oid AND attnum > 0 AND NOT attisdropped))
FROM pg_class AS rel JOIN pg_namespace AS space ON space.oid = relnamespace
WHERE relpersistence <> 't' AND {_PG_OURS}
UNION ALL SELECT 'schema', nspname, '' FROM pg_namespace WHERE {_PG_OURS}
UNION ALL SELECT 'constraint', format('%I.%s.%I', nspname, conrelid::regclass, conname), pg_get_constraintdef(con.oid)
FROM pg_constraint AS con JOIN pg_namespace AS space ON space.oid = connamespace WHERE {_PG_OURS}
UNION ALL SELECT 'trigger', format('%s.%I', tgrelid::regclass, tgname), concat(pg_get_triggerdef(oid), tgenabled)
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', format('%I.%I(%s)', nspname, proname, pg_get_function_identity_arguments(fun.oid)),
  concat(prosrc, probin, proacl) FROM pg_proc AS fun JOIN pg_namespace AS space ON space.oid = pronamespace
WHERE {_PG_OURS}
UNION ALL SELECT 'type', format('%I.%I', nspname, typname), concat((SELECT string_agg(enumlabel, ',' ORDER BY
  enumsortorder) FROM pg_enum WHERE enumtypid = kind.oid), typdefault, typnotnull)
FROM pg_type AS kind JOIN pg_namespace AS space ON space.oid = typnamespace
WHERE typtype IN ('e', 'd', 'r') AND {_PG_OURS}
"""
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
            self._schema = _schema(template.execute(_PG_SCHEMA).fetchall())
            self._before = {table: self._count(template, table) for table in _same_tables(self._schema, self._schema)}
            # A transaction elsewhere may be older than the template's rows; what they have is no later commit.
            self._made = int(template.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text").fetchone()[0])

    def start(self) -> None:
        rows = self._connection.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text").fetchall()
        self._first = max(self._made, int(rows[0][0]))

    def changes(self) -> list[Change]:
        if not self._connection.execute(_PG_COMMITTED, (self._first,)).fetchone()[0]:
            return []
        now = _schema(self._connection.execute(_PG_SCHEMA).fetchall())
        found = _schema_changes(now, self._schema)
        for table in sorted(self._before.keys() & {name for kind, name in now if kind == "table"}):
            count = self._count(self._connection, table)
            written = self._count(self._connection, table, f"WHERE xmin::text::int8 >= {self._first % 2**32}")
            gone = self._before[table] - (count - written)
            if written or gone:
                found.append(Change(table, written, gone))
        return [replace(change, name=change.name.removeprefix("public.")) for change in found]

    def _count(self, connection: Any, table: str, where: str = "") -> int:
        return int(connection.execute(f"SELECT count(*) FROM {table} {where}").fetchone()[0])

    def close(self) -> None:
        self._connection.close()


# A digest of each object. Rows count for their own: see _checksums.
_MARIADB_SCHEMA = """
SELECT 'table', columns.table_name, CONCAT_WS('|', GROUP_CONCAT(MD5(CONCAT_WS('|', column_name, column_type,
  is_nullable, COALESCE(column_default, '-'), extra, COALESCE(collation_name, '-'))) ORDER BY ordinal_position))
FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_schema = %(database)s AND table_type = 'BASE TABLE' GROUP BY columns.table_name
UNION ALL SELECT 'index', CONCAT(table_name, '.', index_name),
  CONCAT(non_unique, GROUP_CONCAT(column_name ORDER BY seq_in_index))
FROM information_schema.statistics WHERE table_schema = %(database)s GROUP BY table_name, index_name, non_unique
UNION ALL SELECT 'constraint', CONCAT(table_name, '.', constraint_name), constraint_type
FROM information_schema.table_constraints WHERE table_schema = %(database)s
UNION ALL SELECT 'view', table_name, REPLACE(view_definition, CONCAT('`', table_schema, '`.'), '')
FROM information_schema.views WHERE table_schema = %(database)s
UNION ALL SELECT 'trigger', trigger_name, MD5(CONCAT(event_manipulation, action_timing, action_statement))
FROM information_schema.triggers WHERE trigger_schema = %(database)s
UNION ALL SELECT 'routine', routine_name, MD5(CONCAT(routine_type, COALESCE(routine_definition, '')))
FROM information_schema.routines WHERE routine_schema = %(database)s
UNION ALL SELECT 'sequence', table_name, '' FROM information_schema.tables
WHERE table_schema = %(database)s AND table_type = 'SEQUENCE'
"""


class MariadbWatch(Watch):
    """MariaDB has no count of commits for one database: its schema and the checksums of its tables are compared."""

    def __init__(self, connection: Any, database: str, template: str) -> None:
        self._connection, self._database, self._template = connection, database, template
        self._before: dict[str, Any] = {}
        self._rows("SET SESSION group_concat_max_len = 1000000")
        self._schema = self._read_schema()

    def start(self) -> None:
        self._before = self._checksums(self._schema)

    def changes(self) -> list[Change]:
        schema = self._read_schema()
        found = _schema_changes(schema, self._schema)
        now = self._checksums(schema)
        for table in _same_tables(schema, self._schema):
            if now[table] != self._before.get(table):
                found += self._compared(table) or [Change(table, what="changed")]
        return found

    def _compared(self, table: str) -> list[Change]:
        ours, theirs = self._count(self._database, table), self._count(self._template, table)
        written = self._differing(self._database, self._template, table)
        gone = self._differing(self._template, self._database, table)
        return list(_rows_changed(table, written, gone, ours - theirs))

    def _rows(self, sql: str, arguments: Any = None) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            return list(cursor.fetchall())

    def _read_schema(self) -> _Schema:
        return _schema(self._rows(_MARIADB_SCHEMA, {"database": self._database}))

    def _checksums(self, schema: _Schema) -> dict[str, Any]:
        tables = sorted(name for kind, name in schema if kind == "table")
        if not tables:
            return {}
        named = ", ".join(f"`{table}`" for table in tables)
        return {name.split(".", 1)[1]: checksum for name, checksum in self._rows(f"CHECKSUM TABLE {named}")}

    def _differing(self, one: str, other: str, table: str) -> int:
        differing = f"SELECT * FROM `{one}`.`{table}` EXCEPT SELECT * FROM `{other}`.`{table}`"
        return int(self._rows(f"SELECT COUNT(*) FROM ({differing}) AS differing")[0][0])

    def _count(self, database: str, table: str) -> int:
        return int(self._rows(f"SELECT COUNT(*) FROM `{database}`.`{table}`")[0][0])

    def close(self) -> None:
        self._connection.close()
