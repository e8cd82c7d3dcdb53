"""What a statement or operation changes: DDL or rows, and which table."""

from __future__ import annotations

import re
from typing import Any, Final

import sqlalchemy as sa
from alembic.operations import ops

from prefiq_db.migrate.lint.revision_reader import Step

_DDL: Final = re.compile(r"(?:CREATE|ALTER|DROP|RENAME|TRUNCATE)\b", re.I)
_DATA: Final = re.compile(
    r"(?:INSERT|UPDATE|DELETE|REPLACE|MERGE|COPY|LOAD)\b|WITH\b.*[()] (?:INSERT|UPDATE|DELETE)\b", re.I | re.S
)
_NAME: Final = r'(?:IF (?:NOT )?EXISTS )?(?:ONLY )?(?P<name>(?:[`"\[]?[\w$]+[`"\]]?\.)?[`"\[]?[\w$]+[`"\]]?)'
_REFERENCES: Final = re.compile(rf"\bREFERENCES {_NAME}", re.I)
_CREATE: Final = r"CREATE (?:OR REPLACE |GLOBAL |LOCAL |TEMP |TEMPORARY |UNLOGGED )*TABLE"
_TABLES: Final = tuple(
    re.compile(rf"{words}\s+{_NAME}", re.I | re.S)
    for words in (
        r"CREATE (?:UNIQUE )?INDEX .*?\bON",
        _CREATE,
        r"(?:ALTER (?:ONLINE |IGNORE )*|DROP |RENAME |TRUNCATE )TABLE",
        r"(?:INSERT|REPLACE)(?: IGNORE)? INTO",
        r"DELETE FROM",
        r"UPDATE(?: IGNORE)?",
    )
)


def is_ddl(sql: str) -> bool:
    return _DDL.match(sql) is not None


def is_data(sql: str) -> bool:
    return _DATA.match(sql) is not None


def changed_table(sql: str) -> str | None:
    """Return the table that a statement changes, without its schema; ``None`` when it is unknown."""
    for pattern in _TABLES:
        if found := pattern.match(sql):
            return found["name"].split(".")[-1].strip('`"[]')
    return None


def referred_tables(sql: str) -> list[str]:
    """Return the tables that the foreign keys in a statement refer to."""
    return [found["name"].split(".")[-1].strip('`"[]') for found in _REFERENCES.finditer(sql)]


def table_of(step: Step) -> str | None:
    """Return the table that an operation changes."""
    operation: Any = step.operation
    if isinstance(operation, ops.ExecuteSQLOp):
        table = getattr(operation.sqltext, "table", None)
        if isinstance(table, sa.TableClause):
            return table.name
        return changed_table(step.sql[0]) if step.sql else None
    if isinstance(operation, ops.BulkInsertOp):
        return str(operation.table.name)
    if isinstance(operation, ops.CreateForeignKeyOp):
        return operation.source_table
    name = getattr(operation, "table_name", None)
    return None if name is None else str(name)


def created_tables(step: Step) -> set[str]:
    """Return the tables that an operation creates."""
    if isinstance(step.operation, ops.CreateTableOp):
        return {step.operation.table_name}
    return {
        name for sql in step.sql if re.match(rf"{_CREATE}\b", sql, re.I) and (name := changed_table(sql)) is not None
    }
