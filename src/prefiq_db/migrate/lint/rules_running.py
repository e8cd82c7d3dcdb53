"""Hazards for the code that runs while a revision is applied: it still expects the old tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

import sqlalchemy as sa
from alembic.operations import ops

from prefiq_db.migrate.lint.alterations import Clause, clauses_of
from prefiq_db.migrate.lint.references import References, on_existing
from prefiq_db.migrate.lint.revision_reader import Reading, Step
from prefiq_db.migrate.lint.sql import changed_table
from prefiq_db.migrate.traits import traits_of

_RENAME: Final = re.compile(r"RENAME TABLE\b", re.I)
_DROP: Final = re.compile(r"DROP (?:TEMPORARY )?TABLE\b", re.I)
_FILLED: Final = "DEFAULT|GENERATED|AS|AUTO_INCREMENT|IDENTITY|PRIMARY KEY|(?:SMALL|BIG)?SERIAL"


def not_null_without_default(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        if isinstance(step.operation, ops.AddColumnOp):
            column = step.operation.column
            if not column.nullable and column.server_default is None and not column.primary_key:
                yield step, f"{step.operation.table_name}.{column.name}"
        yield from _found(step, "add-column", lambda clause: clause.says("NOT NULL") and not clause.says(_FILLED))


def set_not_null(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        if isinstance(step.operation, ops.AlterColumnOp) and step.operation.modify_nullable is False:
            yield step, _column(step.operation)
        yield from _found(step, "set-not-null")
        yield from _found(step, "modify|change", lambda clause: clause.says("NOT NULL"))


def rename(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        operation = step.operation
        if isinstance(operation, ops.RenameTableOp):
            yield step, operation.table_name
        elif isinstance(operation, ops.AlterColumnOp) and operation.modify_name is not None:
            yield step, _column(operation)
        else:
            yield from _written(step, _RENAME)
            yield from _found(step, "rename")
            yield from _found(step, "change", lambda clause: clause.renames)


def type_change(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        operation = step.operation
        yield from _found(step, "type|modify|change")
        if not isinstance(operation, ops.AlterColumnOp) or operation.modify_type is None:
            continue
        # Some databases can lengthen a text column without reading the rows.
        if not traits_of(reading.dialect).widens_texts_in_place or not _only_longer(operation):
            yield step, _column(operation)


def contract(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        if isinstance(step.operation, ops.DropTableOp):
            yield step, step.operation.table_name
        elif isinstance(step.operation, ops.DropColumnOp):
            yield step, _column(step.operation)
        else:
            yield from _written(step, _DROP)
            yield from _found(step, "drop-column")


def _column(operation: ops.AlterColumnOp | ops.DropColumnOp) -> str:
    return f"{operation.table_name}.{operation.column_name}"


def _only_longer(operation: ops.AlterColumnOp) -> bool:
    old, new = operation.existing_type, operation.modify_type
    if not isinstance(old, sa.String) or not isinstance(new, sa.String):
        return False
    return new.length is None or (old.length is not None and old.length <= new.length)


def _found(step: Step, kinds: str, when: Callable[[Clause], bool] = lambda clause: True) -> Iterator[tuple[Step, str]]:
    """Yield clauses of those kinds in SQL that the revision contains as text."""
    return ((step, each.subject) for each in clauses_of(step) if each.kind in kinds.split("|") and when(each))


def _written(step: Step, pattern: re.Pattern[str]) -> Iterator[tuple[Step, str]]:
    """Yield a match of *pattern* in SQL that the revision contains as text."""
    if isinstance(step.operation, ops.ExecuteSQLOp):
        for sql in step.sql:
            if pattern.match(sql):
                yield step, changed_table(sql) or "a table"
