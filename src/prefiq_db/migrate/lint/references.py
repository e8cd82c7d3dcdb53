"""Which tables refer to which, from the foreign keys in earlier revisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from alembic.operations import ops

from prefiq_db.migrate.lint.revision_reader import Reading, Step
from prefiq_db.migrate.lint.sql import changed_table, created_tables, is_ddl, referred_tables, table_of


@dataclass(slots=True)
class References:
    """The foreign keys between tables, in the revisions so far."""

    referrers: dict[str, set[str]] = field(default_factory=dict)

    def learn(self, reading: Reading) -> None:
        """Remember the foreign keys that a revision creates."""
        for child, parent in _references(reading):
            self.referrers.setdefault(parent, set()).add(child)

    def children_of(self, table: str, reading: Reading) -> list[str]:
        """Return the tables that refer to *table*, from earlier revisions or this one."""
        own = {child for child, parent in _references(reading) if parent == table}
        return sorted((self.referrers.get(table, set()) | own) - {table})


def on_existing(reading: Reading) -> Iterator[Step]:
    """Yield the steps on tables that this revision doesn't create: those have rows, and code that uses them."""
    made: set[str] = set()
    for step in reading.steps:
        if table_of(step) not in made:
            yield step
        made |= created_tables(step)


def _references(reading: Reading) -> Iterator[tuple[str, str]]:
    for step in reading.steps:
        operation = step.operation
        if isinstance(operation, ops.CreateForeignKeyOp):
            yield operation.source_table, operation.referent_table
        elif isinstance(operation, ops.ExecuteSQLOp):
            for sql in step.sql:
                if (child := changed_table(sql)) is not None and is_ddl(sql):
                    yield from ((child, parent) for parent in referred_tables(sql))
        elif isinstance(operation, ops.CreateTableOp):
            for item in operation.columns:
                yield from ((operation.table_name, parent) for parent in _parents(item))
        elif isinstance(operation, ops.AddColumnOp):
            yield from ((operation.table_name, parent) for parent in _parents(operation.column))


def _parents(item: Any) -> Iterator[str]:
    keys = item.elements if isinstance(item, sa.ForeignKeyConstraint) else getattr(item, "foreign_keys", ())
    return (key.target_fullname.split(".")[-2] for key in keys)
