"""Many rows into PostgreSQL: COPY, where its texts mean the same as the parameters of ``insert()``, else INSERTs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy import Column, Insert, Table
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.sql.sqltypes import _AbstractInterval

from prefiq_db.bridge import await_
from prefiq_db.dialects.bulk import BulkDialect, BulkInsert, Carrier, OnConflict, Rows, by_column, family

# With more of them INSERTs are as fast.
_MOST_PARTS: Final = 50
_BLOCK: Final = 32 * 1024
_LINE: Final = re.compile(r"^COPY .*, line (\d+)(?:, column (.+?))?(?::|$)", re.S)


class Copy(Carrier):
    """COPY straight into the table, or into a temporary one from where INSERT ... ON CONFLICT takes the rows."""

    def __init__(self, insert: BulkInsert, dialect: Any) -> None:
        quote = dialect.identifier_preparer
        self.dialect = dialect
        self.names = [self._name(column) for column in insert.columns]
        self.table = quote.format_table(insert.table).replace("%%", "%")
        if insert.on_conflict == "error":
            self.staged = ""
            into, names = self.table, self.names
        else:
            self.staged = into = f"pg_temp.prefiq_bulk_{insert.number}"
            names = [*self.names, "prefiq_place"]
        super().__init__(insert, f"COPY {into} ({', '.join(names)}) FROM STDIN")

    def send(self, cursor: Any, statement: str, rows: Rows, context: Any) -> None:
        driver = self.dialect._driver_cursor(cursor)
        try:
            if self.staged:
                self._run(driver, self._staging())
                self.dialect.copy_rows(driver, statement, [(*row, place) for place, row in enumerate(rows)])
                for start, end in self.parts(rows):
                    self._take_over(driver, start, end)
                self._run(driver, f"DROP TABLE {self.staged}")
            else:
                self.dialect.copy_rows(driver, statement, rows)
                self.count(len(rows), None)
        except Exception as error:
            found = _LINE.match(str(getattr(getattr(error, "diag", None), "context", None) or ""))
            if found is not None:
                self.failed_at, self.failed_column = int(found[1]) - 1, found[2]
            raise

    def _run(self, driver: Any, sql: str) -> Any:
        return self.dialect.finished(driver.connection.execute(sql, prepare=False))

    def _name(self, column: Column[Any]) -> str:
        # Nothing is interpolated into these statements, so a % is one.
        return str(self.dialect.identifier_preparer.format_column(column)).replace("%%", "%")

    def _staging(self) -> str:
        names = ", ".join(self.names)
        return (
            f"CREATE TEMPORARY TABLE {self.staged.partition('.')[2]} ON COMMIT DROP AS"
            f" SELECT {names}, 0 AS prefiq_place FROM {self.table} WITH NO DATA"
        )

    def parts(self, rows: Rows) -> list[tuple[int, int]]:
        """Return the rows by parts in which no key is twice: one statement updates a row once only."""
        if self.insert.on_conflict != "update" or not self.insert.updated:
            return [(0, len(rows))]
        places = [self.insert.columns.index(column) for column in self.insert.key]
        starts, seen = [0], set[Any]()
        for number, row in enumerate(rows):
            key = tuple([row[place] for place in places])
            if key in seen and None not in key:  # a key with NULL is never there
                starts.append(number)
                seen.clear()
            seen.add(key)
        return list(zip(starts, [*starts[1:], len(rows)], strict=True))

    def _take_over(self, driver: Any, start: int, end: int) -> None:
        """Insert the staged rows from *start* to *end*.

        Where only the database takes two keys for the same, it refuses them; then INSERTs send one after the other.
        """
        insert, names = self.insert, ", ".join(self.names)
        clause = "ON CONFLICT DO NOTHING"
        if insert.on_conflict == "update" and insert.updated:
            key = ", ".join(map(self._name, insert.key))
            changes = ", ".join(f"{name} = excluded.{name}" for name in map(self._name, insert.updated))
            clause = f"ON CONFLICT ({key}) DO UPDATE SET {changes}"
        cursor = self._run(
            driver,
            f"WITH done AS (INSERT INTO {self.table} ({names}) SELECT {names} FROM {self.staged}"
            f" WHERE prefiq_place >= {start} AND prefiq_place < {end} ORDER BY prefiq_place"
            f" {clause} RETURNING xmax = 0 AS fresh) SELECT count(*) FILTER (WHERE fresh) FROM done",
        )
        ((inserted,),) = self.dialect.finished(cursor.fetchall())
        there = end - start - inserted
        updates = insert.on_conflict == "update" and bool(insert.updated)
        self.inserted = (self.inserted or 0) + inserted
        self.updated = (self.updated or 0) + (there if updates else 0)
        self.ignored = (self.ignored or 0) + (0 if updates else there)


class Inserts(Carrier):
    """psycopg's executemany, in a pipeline."""

    def __init__(self, insert: BulkInsert, dialect: Any) -> None:
        super().__init__(insert, insert.compiled.string)
        names = insert.compiled.escaped_bind_names or {}
        self.keys = [names.get(column.key, column.key) for column in insert.columns]

    def send(self, cursor: Any, statement: str, rows: Rows, context: Any) -> None:
        cursor.executemany(statement, [dict(zip(self.keys, row, strict=True)) for row in rows])
        self.count(len(rows), cursor.rowcount)


class PostgresqlBulk(BulkDialect):
    asks_for_the_table: ClassVar[bool] = True

    def conflicting(self, table: Table, on_conflict: OnConflict, columns: Any, key: Any) -> Insert:
        insert = postgresql_insert(table)
        if on_conflict == "ignore" or not columns:
            return insert.on_conflict_do_nothing()
        return insert.on_conflict_do_update(
            index_elements=list(key), set_={column.key: insert.excluded[column.key] for column in columns}
        )

    def fast_carrier(self, insert: BulkInsert, rows: Rows, context: Any) -> Carrier | None:
        if insert.notes.get("no copy"):
            return None
        checks = insert.notes.get("checks")
        if checks is None:
            pairs = zip(insert.columns, insert.stored_columns(), strict=True)
            checks = insert.notes["checks"] = [same_in_copy(column, there, self) for column, there in pairs]
        for check, values in zip(checks, by_column(rows), strict=True):
            if check is None or not check(values):
                return None
        carrier = Copy(insert, self)
        return carrier if len(carrier.parts(rows)) <= _MOST_PARTS else None

    def insert_carrier(self, insert: BulkInsert) -> Carrier:
        return Inserts(insert, self)

    def copy_rows(self, driver: Any, statement: str, rows: Rows) -> None:
        """Send *rows* with COPY."""
        raise NotImplementedError

    def finished(self, result: Any) -> Any:
        """Return *result* of the driver; in async mode it is awaited."""
        raise NotImplementedError


class SyncCopy:
    """Mixed into the sync dialect."""

    def copy_rows(self, driver: Any, statement: str, rows: Rows) -> None:
        with driver.copy(statement) as copy:
            for block in _blocks(rows, copy.formatter.transformer):
                copy.write(block)

    def finished(self, result: Any) -> Any:
        return result


class AsyncCopy:
    """Mixed into the async dialect."""

    def copy_rows(self, driver: Any, statement: str, rows: Rows) -> None:
        async def send() -> None:
            async with driver.copy(statement) as copy:
                for block in _blocks(rows, copy.formatter.transformer):
                    await copy.write(block)

        await_(send())

    def finished(self, result: Any) -> Any:
        return await_(result)


def _blocks(rows: Rows, transformer: Any) -> Iterator[bytearray]:
    """Yield the text of *rows* in blocks, as psycopg's ``write_row`` writes it, with half of its calls."""
    from psycopg import _copy_base

    write = _copy_base.format_row_text
    block = bytearray()
    for row in rows:
        write(row, transformer, block)
        if len(block) > _BLOCK:
            yield block
            block = bytearray()
    yield block


# --- which values COPY reads as INSERT does ------------------------------------------------------

_Check = Callable[[Sequence[Any]], bool]
_NONE: Final = type(None)


def _of(*kinds: type) -> _Check:
    allowed = frozenset({*kinds, _NONE})
    return lambda values: allowed.issuperset(map(type, values))


def _naive(kind: type) -> _Check:
    """Only without a time zone: COPY would drop it, where a parameter is converted."""
    allowed = _of(kind)
    return lambda values: allowed(values) and all(value is None or value.tzinfo is None for value in values)


def _is_alike(kind: Any, stored: Any) -> bool:
    """Return whether the database's column is of the kind that the ``Table`` says: COPY converts more than INSERT."""
    while isinstance(stored, DOMAIN):
        stored = stored.data_type
    if family(kind) is not family(stored) or isinstance(stored, sa.REAL):
        return False
    return getattr(kind, "timezone", None) == getattr(stored, "timezone", None)


def same_in_copy(column: Column[Any], stored: Column[Any] | None, dialect: Any) -> _Check | None:
    """Return a check whether COPY stores values of *column* exactly as INSERT does; ``None`` if we can't tell.

    Args:
        stored: the column as the database describes it.
    """
    import datetime as dt
    import decimal
    import uuid

    from psycopg.types.json import Json, Jsonb

    kind: Any = column.type._unwrapped_dialect_impl(dialect)
    if stored is None or (stored.identity is not None and stored.identity.always):
        return None  # COPY would write into an identity that INSERT may not write into
    if isinstance(kind, (sa.Enum, sa.String)):
        return _of(str)  # of no type on both ways
    if not _is_alike(kind, stored.type):
        return None
    if isinstance(kind, sa.Integer):
        return _of(int)
    if isinstance(kind, sa.Boolean):
        return _of(bool)
    if isinstance(kind, sa.Float):
        # A REAL is rounded twice on one way and once on the other.
        return None if isinstance(kind, sa.REAL) or (kind.precision or 53) < 25 else _of(float, int)
    if isinstance(kind, sa.Numeric):
        return _of(decimal.Decimal, int)
    if isinstance(kind, sa.DateTime):
        return _of(dt.datetime) if kind.timezone else _naive(dt.datetime)
    if isinstance(kind, sa.Date):
        return _of(dt.date)
    if isinstance(kind, sa.Time):
        return None if kind.timezone else _naive(dt.time)
    if isinstance(kind, _AbstractInterval):
        return _of(dt.timedelta)
    if isinstance(kind, sa.LargeBinary):
        return _of(bytes)
    if isinstance(kind, sa.Uuid):
        return _of(uuid.UUID)
    return _of(str, Json, Jsonb) if isinstance(kind, sa.JSON) else None
