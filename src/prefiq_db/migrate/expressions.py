"""Ask the database whether it treats two expressions as the same.

It plans a SELECT of both, and the plan shows them in its own form; no row is read. Texts can't be compared: PostgreSQL
reports ``interval '1 day'`` as ``'1 day'::interval``, MariaDB ``lower(name)`` as ``lcase(`name`)``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import sqlalchemy as sa

from prefiq_db.products import dialects

_MOVES: Final = re.compile(r"\b(?:nextval|setval)\s*\(", re.I)

_REWRITING: Final = dialects(where=lambda product: product.rewrites_expressions)
_FAILING: Final = dialects(where=lambda product: product.error_fails_transaction)


def same_default(column: sa.Column[Any], found: str, wanted: str, connection: sa.Connection) -> bool | None:
    """Return whether two defaults of a reflected *column* are equal; ``None``: undecided."""
    if connection.dialect.name not in _REWRITING:
        return None  # the others report the SQL as written, or in one other form: see ``defaults``
    cast = _make_caster(column, connection)
    if cast is None:
        return None
    first, second = cast(found), cast(wanted)
    if _same_on_postgresql(connection, first, second, ""):
        return True
    if _MOVES.search(found) or _MOVES.search(wanted):
        return False
    # As Alembic does: 1.0 equals 1.00, and current_date equals now()::date.
    answer = _query(connection, f"SELECT {first} IS NOT DISTINCT FROM {second}")
    return bool(answer and answer[0][0])


def same_expression(column: sa.Column[Any], found: str, wanted: str, connection: sa.Connection) -> bool | None:
    """Return whether two expressions over the columns of its table are the same; ``None``: undecided."""
    ask = _SAME.get(connection.dialect.name)
    cast = _make_caster(column, connection)
    if ask is None or cast is None:
        return None
    source = f" FROM {connection.dialect.identifier_preparer.format_table(column.table)}"
    return ask(connection, cast(found), cast(wanted), source)


# --- per database ------------------------------------------------------------------------------------


def _make_caster(column: sa.Column[Any], connection: sa.Connection) -> Callable[[str], str] | None:
    """Return a function that casts an expression to the column's type, where the server does so as well."""
    if connection.dialect.name not in _REWRITING:
        return lambda expression: f"({expression})"
    table = connection.dialect.identifier_preparer.format_table(column.table)
    type_name = connection.scalar(
        sa.text(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(:name) AND attname = :column"
        ),
        {"name": table, "column": column.name},
    )
    return (lambda expression: f"CAST(({expression}) AS {type_name})") if type_name else None


def _same_on_postgresql(connection: sa.Connection, first: str, second: str, source: str) -> bool | None:
    rows = _query(connection, f"EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT {first}, {second}{source}")
    if not rows:
        return None
    plan = json.loads(rows[0][0]) if isinstance(rows[0][0], str) else rows[0][0]
    output = plan[0]["Plan"]["Output"]
    return bool(output[0] == output[1])


def _same_on_mysql(connection: sa.Connection, first: str, second: str, source: str) -> bool | None:
    explain = "EXPLAIN EXTENDED" if getattr(connection.dialect, "is_mariadb", False) else "EXPLAIN"
    select = f"SELECT {first} AS prefiq_first, {second} AS prefiq_second{source}"
    notes = _query(connection, f"{explain} {select}", "SHOW WARNINGS")
    for *_, note in notes or ():
        if told := re.search(r"select (.*) AS `prefiq_first`,(.*) AS `prefiq_second`", note, re.S):
            return told[1] == told[2]
    return None


def _same_on_sqlite(connection: sa.Connection, first: str, second: str, source: str) -> bool | None:
    programs = [_query(connection, f"EXPLAIN SELECT {each}{source}") for each in (first, second)]
    return None if None in programs else programs[0] == programs[1]


_SAME: Final[Mapping[str, Callable[[sa.Connection, str, str, str], bool | None]]] = {
    "postgresql": _same_on_postgresql,
    "mariadb": _same_on_mysql,
    "mysql": _same_on_mysql,
    "sqlite": _same_on_sqlite,
}


def _query(connection: sa.Connection, *statements: str) -> list[Any] | None:
    """Return the rows of the last of them; ``None`` when the database refuses one."""
    # Only on PostgreSQL does a failed statement abort the transaction.
    nested = connection.dialect.name in _FAILING and not connection._is_autocommit_isolation()
    savepoint = connection.begin_nested() if nested else None
    rows: list[Any] | None = None
    try:
        for statement in statements:
            # Unformatted: a percent sign is no placeholder.
            result = connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
            rows = [tuple(row) for row in result] if result.returns_rows else []
    except sa.exc.DBAPIError:
        rows = None
    finally:
        if savepoint is not None:
            savepoint.rollback()
    return rows
