"""What stops the code that is running while a revision is applied: it knows the tables as they were."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import sqlalchemy as sa
from alembic.operations import ops

from prefiq_db.migrate.lint.history import History, on_existing
from prefiq_db.migrate.lint.reading import Reading, Step
from prefiq_db.migrate.lint.sql import changed_table

_RENAME: Final = re.compile(r"(?:ALTER TABLE .*\bRENAME|RENAME TABLE)\b", re.I | re.S)
_KEPT: Final = "CONSTRAINT|INDEX|KEY|CHECK|FOREIGN|PRIMARY|DEFAULT|NOT|IDENTITY|EXPRESSION"
_DROP: Final = re.compile(rf"DROP TABLE\b|ALTER TABLE .*\bDROP (?:COLUMN )?(?!{_KEPT})", re.I | re.S)


def not_null_without_default(reading: Reading, history: History) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        if isinstance(step.operation, ops.AddColumnOp):
            column = step.operation.column
            if not column.nullable and column.server_default is None and not column.primary_key:
                yield step, f"{step.operation.table_name}.{column.name}"


def set_not_null(reading: Reading, history: History) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        if isinstance(step.operation, ops.AlterColumnOp) and step.operation.modify_nullable is False:
            yield step, _column(step.operation)


def rename(reading: Reading, history: History) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        operation = step.operation
        if isinstance(operation, ops.RenameTableOp):
            yield step, operation.table_name
        elif isinstance(operation, ops.AlterColumnOp) and operation.modify_name is not None:
            yield step, _column(operation)
        else:
            yield from _written(step, _RENAME)


def type_change(reading: Reading, history: History) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        operation = step.operation
        if not isinstance(operation, ops.AlterColumnOp) or operation.modify_type is None:
            continue
        # PostgreSQL makes room for longer texts without a look at the rows.
        if reading.dialect != "postgresql" or not _only_longer(operation):
            yield step, _column(operation)


def contract(reading: Reading, history: History) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        if isinstance(step.operation, ops.DropTableOp):
            yield step, step.operation.table_name
        elif isinstance(step.operation, ops.DropColumnOp):
            yield step, _column(step.operation)
        else:
            yield from _written(step, _DROP)


def _column(operation: ops.AlterColumnOp | ops.DropColumnOp) -> str:
    return f"{operation.table_name}.{operation.column_name}"


def _only_longer(operation: ops.AlterColumnOp) -> bool:
    old, new = operation.existing_type, operation.modify_type
    if not isinstance(old, sa.String) or not isinstance(new, sa.String):
        return False
    return new.length is None or (old.length is not None and old.length <= new.length)


def _written(step: Step, pattern: re.Pattern[str]) -> Iterator[tuple[Step, str]]:
    """Find it in SQL that the revision brings itself."""
    if isinstance(step.operation, ops.ExecuteSQLOp):
        for sql in step.sql:
            if pattern.match(sql):
                yield step, changed_table(sql) or "a table"
