"""Hazards of a revision as a whole: part of it stays when the rest fails, or SQLite can't do it."""

from __future__ import annotations

from collections.abc import Iterator

from alembic.operations import ops

from prefiq_db.migrate.lint.alterations import clauses_of
from prefiq_db.migrate.lint.references import References, on_existing
from prefiq_db.migrate.lint.revision_reader import Reading, Step
from prefiq_db.migrate.lint.sql import is_data, is_ddl


def several_ddl(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    counted = [(step, sum(map(is_ddl, step.sql))) for step in reading.steps]
    total, seen = sum(count for _, count in counted), 0
    for step, count in counted:
        seen += count
        if count and seen > 1:
            yield step, str(total)
            return


def backfill_with_ddl(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    if not any(step.batch or any(map(is_ddl, step.sql)) for step in reading.steps):
        return
    for step in on_existing(reading):
        if isinstance(step.operation, ops.BulkInsertOp) or any(map(is_data, step.sql)):
            yield step, "rows"
            return


def rebuild_of_parent(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    told: set[int] = set()
    for step in on_existing(reading):
        if step.batch is None or step.batch.line in told or not _rebuilds(step):
            continue
        if children := references.children_of(step.batch.table, reading):
            told.add(step.batch.line)
            yield step, f"{step.batch.table}, to which {', '.join(children)} refers,"


def cannot_alter(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in reading.steps:
        operation = step.operation
        alters = isinstance(operation, ops.AlterColumnOp) and operation.modify_name is None
        constrains = isinstance(operation, (ops.AddConstraintOp, ops.DropConstraintOp))
        if step.batch is None and (step.refusal or alters or (constrains and not step.sql)):
            yield step, getattr(operation, "table_name", None) or "a table"
        clauses = list(clauses_of(step))
        # SQLite's ALTER TABLE takes one clause, of a few kinds.
        if clauses[1:] or any(each.kind not in ("add-column", "drop-column", "rename") for each in clauses):
            yield step, clauses[0].table


def _rebuilds(step: Step) -> bool:
    """Return whether Alembic rebuilds the table; ``auto`` leaves that to the operation."""
    assert step.batch is not None
    if step.batch.recreate != "auto":
        return step.batch.recreate == "always"
    if isinstance(step.operation, ops.AddColumnOp):
        default = step.operation.column.server_default
        return default is not None and not isinstance(getattr(default, "arg", None), str)
    return not isinstance(step.operation, (ops.CreateIndexOp, ops.DropIndexOp, ops.ExecuteSQLOp, ops.BulkInsertOp))
