"""Convert SQLite's decimal columns from texts, their former form, to numbers: for a revision of a service."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

from prefiq_db.dialects.sqlite import PrefiqSqlite, PrefiqSqliteAsync
from prefiq_db.dialects.sqlite_decimals import EXACT, keeps_texts
from prefiq_db.errors import DataError, SchemaError, UnsupportedError, UsageError
from prefiq_db.products import dialects
from prefiq_db.types import ExactDecimal
from prefiq_db.types.decimals import SQLITE_NAME, check_sql

_TOKEN: Final = re.compile(
    r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|[^\W\d][\w$]*|[^\s]""", re.S
)
# Words that may follow the type in a column's definition.
_AFTER_TYPE: Final = frozenset(
    ["constraint", "primary", "not", "null", "unique", "check", "default", "collate", "references", "generated", "as"]
)
_NEW: Final = "_prefiq_decimals"
_WITHOUT_DECIMALS: Final = dialects(where=lambda product: not product.has_decimals)


def decimals_to_numbers(table: str, columns: Mapping[str, ExactDecimal]) -> None:
    """Convert the texts in *columns* of *table* to numbers; do nothing on PostgreSQL and MariaDB.

    It rebuilds the table, as SQLite requires, with its rows, and with constraints, indexes and triggers verbatim.
    Run it in a revision: ``decimals_to_numbers("payment", {"amount": Money()})``. It leaves a column that holds numbers
    already unchanged, so that it may run twice.

    Raises:
        DataError: if a column holds what its type can't keep on SQLite; nothing was changed.
        SchemaError: if there is no such table or column.
        UnsupportedError: if SQL is written for later (``--sql``), with foreign keys switched on, or on an engine that
            isn't prefiq_db's.
    """
    context = op.get_context()
    if context.dialect.name not in _WITHOUT_DECIMALS:
        return
    if context.as_sql:
        raise UnsupportedError("decimals_to_numbers looks at the table: it can't be written as SQL")
    if not isinstance(context.dialect, (PrefiqSqlite, PrefiqSqliteAsync)):
        raise UnsupportedError("decimals_to_numbers: run it through prefiq_db.migrate.run, or an engine of prefiq_db")
    rebuild = _Rebuild(op.get_bind(), table, columns)
    if rebuild.columns:
        rebuild.check_rows()
        rebuild.run()


class _Rebuild:
    """The rebuild of one table."""

    def __init__(self, connection: sa.Connection, table: str, columns: Mapping[str, ExactDecimal]) -> None:
        self.connection = connection
        self.table = table
        if bad := [name for name, type_ in columns.items() if not isinstance(type_, ExactDecimal)]:
            raise UsageError(f"decimals_to_numbers: expected an ExactDecimal or Money() for {', '.join(bad)}")
        self.types = {row[1]: row[2] for row in self._rows(f"SELECT * FROM pragma_table_info({_text(table)})")}
        if missing := [name for name in columns if name not in self.types]:
            raise SchemaError(f"decimals_to_numbers: {table} has no column {', '.join(missing)}", table=table)
        self.columns = {name: type_ for name, type_ in columns.items() if keeps_texts(self.types[name])}

    def _rows(self, sql: str) -> list[Any]:
        return list(self.connection.exec_driver_sql(sql))

    def _run(self, sql: str) -> None:
        self.connection.exec_driver_sql(sql)

    def check_rows(self) -> None:
        """Raise if a row holds a value that the column can't keep as a number, before anything is changed."""
        for name, type_ in self.columns.items():
            column = _name(name)
            found = self.connection.exec_driver_sql(
                f"SELECT {column} FROM {_name(self.table)} WHERE {column} IS NOT NULL"
            )
            misfits = sum(not _fits(value, type_, self.connection.dialect) for (value,) in found)
            if misfits:
                raise DataError(
                    f"{self.table}.{name}: {misfits} rows hold what isn't a number of {type_.precision} digits, "
                    f"{type_.scale} of them after the point, within the 15 that SQLite keeps; mend them first",
                    table=self.table,
                    column=name,
                )

    def run(self) -> None:
        if self._rows("PRAGMA foreign_keys") == [(1,)]:
            raise UnsupportedError(
                "decimals_to_numbers: with foreign keys switched on, SQLite would delete the rows of the table's "
                "children; run it through prefiq_db.migrate.run"
            )
        create, others = self._definitions()
        self._run(create)
        names = ", ".join(map(_name, self.types))
        values = ", ".join(map(self._value, self.types))
        self._run(f"INSERT INTO {_NEW} ({names}) SELECT {values} FROM {_name(self.table)}")
        self._keep_sequence()
        self._run(f"DROP TABLE {_name(self.table)}")
        self._rename()
        for sql in others:
            self._run(sql)

    def _definitions(self) -> tuple[str, list[str]]:
        of_table = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND"
        (create,) = self._rows(f"{of_table} type = 'table' AND name = {_text(self.table)}")
        others = self._rows(f"{of_table} type <> 'table' AND tbl_name = {_text(self.table)} AND type <> 'view'")
        return rewrite(create[0], _NEW, self.columns), [row[0] for row in others]

    def _value(self, name: str) -> str:
        type_ = self.columns.get(name)
        return _name(name) if type_ is None else f"{EXACT}(CAST({_name(name)} AS REAL), {type_.scale})"

    def _keep_sequence(self) -> None:
        """Let AUTOINCREMENT go on where it was; SQLite has the table for it only if some column uses it."""
        if self._rows("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'"):
            old = f"SELECT seq FROM sqlite_sequence WHERE name = {_text(self.table)}"
            self._run(f"UPDATE sqlite_sequence SET seq = coalesce(({old}), seq) WHERE name = '{_NEW}'")

    def _rename(self) -> None:
        # Otherwise SQLite checks other tables' views and triggers, and doesn't find the table that is being renamed.
        legacy = self._rows("PRAGMA legacy_alter_table")
        self._run("PRAGMA legacy_alter_table = ON")
        try:
            self._run(f"ALTER TABLE {_NEW} RENAME TO {_name(self.table)}")
        finally:
            if legacy == [(0,)]:
                self._run("PRAGMA legacy_alter_table = OFF")


def rewrite(create: str, new_name: str, columns: Mapping[str, ExactDecimal]) -> str:
    """Return a CREATE TABLE for *new_name* in which *columns* are decimals, and the rest is unchanged."""
    tokens = [token for token in _TOKEN.finditer(create) if not token.group().startswith(("--", "/*"))]
    opens = next(place for place, token in enumerate(tokens) if token.group() == "(")
    changes = [(tokens[opens - 1].span(), new_name)]
    for first, last in _items(tokens, opens):
        name = _bare(tokens[first].group())
        type_ = next((type_ for column, type_ in columns.items() if column.lower() == name.lower()), None)
        if type_ is not None:
            behind = _find_end_of_type(tokens, first + 1, last)
            declared = f" {SQLITE_NAME}({type_.precision}, {type_.scale})"
            changes.append(((tokens[first].end(), tokens[behind - 1].end()), declared))
            changes.append(((tokens[last - 1].end(),) * 2, f" {check_sql(_name(name), type_.scale)}"))
    for (begin, end), text in sorted(changes, reverse=True):
        create = create[:begin] + text + create[end:]
    return create


def _items(tokens: list[re.Match[str]], opens: int) -> list[tuple[int, int]]:
    """Return where each column or constraint begins and ends."""
    items, depth, first = [], 0, opens + 1
    for place in range(opens, len(tokens)):
        token = tokens[place].group()
        depth += {"(": 1, ")": -1}.get(token, 0)
        if (token == "," and depth == 1) or depth == 0:
            items.append((first, place))
            first = place + 1
        if depth == 0:
            break
    return items


def _find_end_of_type(tokens: list[re.Match[str]], place: int, last: int) -> int:
    depth = 0
    while place < last and (depth or tokens[place].group().lower() not in _AFTER_TYPE):
        depth += {"(": 1, ")": -1}.get(tokens[place].group(), 0)
        place += 1
    return place


def _fits(value: Any, type_: ExactDecimal, dialect: sa.Dialect) -> bool:
    try:
        number = Decimal(str(value))
        type_.process_bind_param(number, dialect)
    except (InvalidOperation, UsageError):
        return False
    return True


def _bare(name: str) -> str:
    if name[0] == "[":
        return name[1:-1]
    return name[1:-1].replace(name[0] * 2, name[0]) if name[0] in "\"`'" else name


def _name(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _text(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
