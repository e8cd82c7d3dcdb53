"""Many rows into MariaDB and MySQL: LOAD DATA LOCAL from our own stream, else INSERTs of many rows in a packet."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Column, Insert, Table
from sqlalchemy.dialects.mysql import insert as mysql_insert

from prefiq_db.bridge import await_
from prefiq_db.dialects.bulk import BulkDialect, BulkInsert, Carrier, OnConflict, Rows, by_column, family
from prefiq_db.drivers.local_stream import REFUSED, SHOWN_NAME, LocalStream
from prefiq_db.translation.driver_reports import code_of

# LOAD DATA LOCAL is switched off at the server (1148, 3948, 4166), or our driver refused a request.
_NO_LOAD: Final = frozenset({1148, 3948, 4166, REFUSED})
# Larger statements aren't faster.
_LARGEST_STATEMENT: Final = 2**20
_INFO: Final = re.compile(r"Records: (\d+)\s+Duplicates: (\d+)")
# The binds of one row, in either of the two styles that the drivers have.
_BINDS: Final = re.compile(r"(?<=\) )VALUES \((?:%s|%\([^)]*\)s)(?:, (?:%s|%\([^)]*\)s))*\)")
_UPDATE: Final = "ON DUPLICATE KEY UPDATE "
_DUPLICATE: Final = 1062
# An error where nobody expects one: a subquery with two rows where one is needed, evaluated only if it is reached.
# Its NULL goes with a column of any type.
_GUARD: Final = "(SELECT NULL UNION ALL SELECT NULL)"
_GUARD_CODE: Final = 1242
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\0": "\\0"})


class LoadData(Carrier):
    """One LOAD DATA LOCAL. The server makes warnings of errors there, so any warning puts the whole chunk in doubt."""

    def __init__(self, insert: BulkInsert, dialect: Any) -> None:
        quote = dialect.identifier_preparer
        names = ", ".join(quote.format_column(column) for column in insert.columns)
        self.dialect = dialect
        text = (
            f"LOAD DATA LOCAL INFILE {SHOWN_NAME} INTO TABLE {quote.format_table(insert.table)} CHARACTER SET utf8mb4"
            f" FIELDS TERMINATED BY X'09' ESCAPED BY X'5C' LINES TERMINATED BY X'0A' ({names})"
        )
        super().__init__(insert, text.replace("%%", "%"))

    def send(self, cursor: Any, statement: str, rows: Rows, context: Any) -> None:
        driver = self.dialect.driver_of(cursor)
        driver.local_stream = stream = LocalStream(_as_file(rows))
        try:
            self.dialect.load(cursor, statement.replace(SHOWN_NAME, f"'{stream.name}'", 1))
        except Exception as error:
            if code_of(error) in _NO_LOAD:
                self.dialect.loads_data = False
            raise
        finally:
            driver.local_stream = None
        result = driver._result
        self.is_in_doubt = bool(result.warning_count) or result.affected_rows != len(rows)
        self.dialect.note_count(cursor, result.affected_rows)
        self.count(len(rows), None)


class LongInserts(Carrier):
    """INSERTs of as many rows as a packet holds, with literals as the driver writes them."""

    def __init__(self, insert: BulkInsert, dialect: Any) -> None:
        super().__init__(insert, insert.compiled.string)
        self.dialect = dialect
        head, tail = _BINDS.split(self.text, maxsplit=1)
        self.head, self.tail = head.replace("%%", "%"), tail.replace("%%", "%")
        # Of a single row the server doesn't say whether it was there, so its clause notes that. Made here, where the
        # text has no values in it yet.
        name = dialect.identifier_preparer.format_column(_unchanged_in(insert.table)).replace("%%", "%")
        before, clause, changes = self.tail.partition(_UPDATE)
        self.tail_of_one = f"{before}{clause}{name} = IF(@prefiq_there := 1, {name}, {name}), {changes}"

    def send(self, cursor: Any, statement: str, rows: Rows, context: Any) -> None:
        tail = statement.removeprefix(self.text).replace("%%", "%") if statement.startswith(self.text) else ""
        literal = self.dialect.literal_of(cursor)
        texts = list(map(", ".join, zip(*[_literals(column, literal) for column in by_column(rows)], strict=True)))
        most = self.dialect.largest_statement(cursor) - len(self.head) - len(self.tail_of_one) - len(tail) - 1024
        duplicates = 0
        start = 0
        while start < len(texts):
            end = _end_of_packet(texts, start, most)
            duplicates += self._send_part(cursor, texts[start:end], tail)
            start = end
        self.dialect.note_count(cursor, len(rows) - duplicates if self.insert.on_conflict == "ignore" else len(rows))
        self.count(len(rows), len(rows) - duplicates)
        if self.insert.on_conflict == "update":
            self.inserted, self.updated = len(rows) - duplicates, duplicates
            if not self.insert.updated:  # there is nothing to change
                self.updated, self.ignored = 0, duplicates

    def _send_part(self, cursor: Any, texts: list[str], tail: str) -> int:
        """Send one INSERT; return how many of its rows were there already."""
        is_one = len(texts) == 1 and self.insert.on_conflict != "error"
        sql = f"{self.head}VALUES ({'), ('.join(texts)}){self.tail_of_one if is_one else self.tail}{tail}"
        if is_one:
            cursor.execute("SET @prefiq_there = 0")
        try:
            cursor.execute(sql)
        except Exception as error:
            if code_of(error) != _GUARD_CODE:
                raise
        else:
            if is_one:
                cursor.execute("SELECT @prefiq_there")
                ((there,),) = cursor.fetchall()
                return int(there)
            found = _INFO.search(_text(self.dialect.driver_of(cursor)._result.message))
            return int(found[2]) if found else 0
        raise self.dialect.loaded_dbapi.IntegrityError(_DUPLICATE, "Duplicate entry for another unique key")


class MariadbBulk(BulkDialect):
    #: whether LOAD DATA LOCAL is allowed, as far as we know
    loads_data = True
    asks_for_the_table = True
    counts_what_it_ignores = False
    _largest = 0

    def conflicting(self, table: Table, on_conflict: OnConflict, columns: Any, key: Any) -> Insert:
        insert = mysql_insert(table)
        if on_conflict == "ignore" or not columns:
            # Not INSERT IGNORE, which ignores bad values, too. This changes nothing in the row that is there.
            unchanged = _unchanged_in(table)
            return insert.on_duplicate_key_update({unchanged.key: unchanged})
        changes = {column.key: insert.inserted[column.key] for column in columns}
        # Any unique key may be the one in conflict: then the update must not happen to that other row.
        is_ours = sa.and_(*[column.op("<=>")(insert.inserted[column.key]) for column in key])
        changes[columns[0].key] = sa.func.IF(is_ours, changes[columns[0].key], sa.text(_GUARD))
        return insert.on_duplicate_key_update(changes)

    def fast_carrier(self, insert: BulkInsert, rows: Rows, context: Any) -> Carrier | None:
        if not self.loads_data or insert.on_conflict != "error":
            return None
        checks = insert.notes.get("checks")
        stored = insert.stored_columns()
        if checks is None:
            pairs = zip(insert.columns, stored, strict=True)
            checks = insert.notes["checks"] = [same_in_file(column, there, self) for column, there in pairs]
        for check, there, values in zip(checks, stored, by_column(rows), strict=True):
            if check is None or not check.issuperset(map(type, values)):
                return None
            # A 0 becomes the next number, by the SQL mode. If the rows must be sent again, that is another one.
            if there is not None and there.autoincrement is True and 0 in values:
                return None
        return LoadData(insert, self)

    def insert_carrier(self, insert: BulkInsert) -> Carrier:
        return LongInserts(insert, self)

    def largest_statement(self, cursor: Any) -> int:
        """Return how many bytes a statement may have, by the server's own word, which is asked for once."""
        if not self._largest:
            cursor.execute("SELECT @@max_allowed_packet")
            ((most,),) = cursor.fetchall()
            self._largest = min(int(most), _LARGEST_STATEMENT)
        return self._largest

    def driver_of(self, cursor: Any) -> Any:
        """Return the driver's connection behind *cursor*."""
        raise NotImplementedError

    def note_count(self, cursor: Any, count: int) -> None:
        """Make *count* the row count that the observers of the statement see."""
        raise NotImplementedError

    def load(self, cursor: Any, sql: str) -> None:
        """Send LOAD DATA below the driver's cursor, which would log its warnings, and values with them."""
        raise NotImplementedError

    def literal_of(self, cursor: Any) -> Callable[[Any], str]:
        """Return the driver's function that writes a value into SQL."""
        raise NotImplementedError


class PyMySQLBulk:
    """Mixed into the sync dialects."""

    def driver_of(self, cursor: Any) -> Any:
        return cursor.connection

    def note_count(self, cursor: Any, count: int) -> None:
        cursor.rowcount = count

    def load(self, cursor: Any, sql: str) -> None:
        cursor.connection.query(sql)

    def literal_of(self, cursor: Any) -> Callable[[Any], str]:
        connection = cursor.connection
        return lambda value: connection.escape(value, connection.encoders)


class AsyncmyBulk:
    """Mixed into the async dialects."""

    def driver_of(self, cursor: Any) -> Any:
        return cursor._connection

    def note_count(self, cursor: Any, count: int) -> None:
        cursor._cursor.rowcount = count

    def load(self, cursor: Any, sql: str) -> None:
        async def send() -> None:
            async with cursor._adapt_connection._execute_mutex:
                await cursor._connection.query(sql)

        await_(send())

    def literal_of(self, cursor: Any) -> Callable[[Any], str]:
        return cursor._connection.literal  # type: ignore[no-any-return]


def _unchanged_in(table: Table) -> Column[Any]:
    """Return a column that an update may set to itself."""
    return next(iter(table.primary_key.columns), next(iter(table.c)))


# --- texts ---------------------------------------------------------------------------------------

_NONE: Final = type(None)


def same_in_file(column: Column[Any], stored: Column[Any] | None, dialect: Any) -> frozenset[type] | None:
    """Return the types of values of *column* that LOAD DATA stores exactly as INSERT; ``None`` if we can't tell.

    Args:
        stored: the column as the database describes it. A number for BIT, ENUM, SET or YEAR is another thing than the
            text of this number, so the column must be of the kind that the ``Table`` says.
    """
    kind: Any = column.type._unwrapped_dialect_impl(dialect)
    if stored is None or not _is_alike(kind, stored.type):
        return None
    if isinstance(kind, sa.Integer):
        return frozenset({int, _NONE})
    if isinstance(kind, (sa.Enum, sa.String, sa.JSON)):
        return frozenset({str, _NONE})
    if isinstance(kind, sa.Boolean):
        return frozenset({bool, int, _NONE})
    if isinstance(kind, sa.Float):
        return frozenset({float, _NONE}) if isinstance(kind, sa.Double) else None
    if isinstance(kind, sa.Numeric):
        return frozenset({decimal.Decimal, int, _NONE})
    if isinstance(kind, sa.DateTime):
        return frozenset({dt.datetime, _NONE})
    return frozenset({dt.date, _NONE}) if isinstance(kind, sa.Date) else None


def _is_alike(kind: Any, stored: Any) -> bool:
    if isinstance(kind, (sa.Enum, sa.String, sa.JSON)):
        return family(stored) in (sa.String, sa.JSON)
    if isinstance(kind, sa.Boolean):
        return isinstance(stored, sa.Integer)
    return family(kind) is family(stored) and isinstance(kind, sa.Double) is isinstance(stored, sa.Double)


def _as_file(rows: Rows) -> bytes:
    lines = map("\t".join, zip(*map(_fields, by_column(rows)), strict=True))
    return ("\n".join(lines) + "\n").encode()


def _fields(values: Sequence[Any]) -> Sequence[str]:
    kinds = set(map(type, values))
    has_null = _NONE in kinds
    kinds.discard(_NONE)
    write = _writer(kinds, values)
    if has_null:
        return ["\\N" if value is None else write(value) for value in values]
    return values if write is _unchanged else list(map(write, values))


def _writer(kinds: set[type], values: Sequence[Any]) -> Callable[[Any], str]:
    if kinds == {str}:
        whole = "".join([value for value in values if value is not None])
        if not any(special in whole for special in "\\\t\n\0"):
            return _unchanged
        return lambda value: value.translate(_ESCAPES)
    if kinds == {int}:
        return int.__str__
    if kinds == {dt.datetime}:
        return _datetime
    return _any


def _unchanged(value: str) -> str:
    return value


def _datetime(value: dt.datetime) -> str:
    return value.isoformat(" ")


def _any(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, float):
        return repr(value)
    return value.isoformat(" ") if isinstance(value, dt.datetime) else str(value)


def _literals(values: Sequence[Any], literal: Callable[[Any], str]) -> Sequence[str]:
    kinds = set(map(type, values))
    if kinds == {int}:
        return list(map(int.__str__, values))
    if kinds == {str}:
        whole = "".join(values)
        if whole.isascii() and whole.isprintable() and "\\" not in whole and "'" not in whole and '"' not in whole:
            return [f"'{value}'" for value in values]
    return list(map(literal, values))


def _end_of_packet(texts: list[str], start: int, most: int) -> int:
    """Return the end of the rows that fit into *most* bytes; at least one row."""
    size, end = 0, start
    for text in texts[start:]:
        size += (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))) + 4
        if size > most and end > start:
            break
        end += 1
    return end


def _text(message: Any) -> str:
    return message.decode("ascii", "replace") if isinstance(message, bytes) else str(message or "")
