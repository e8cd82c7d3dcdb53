"""Hazards that block all other sessions: locks that last longer the larger a table is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from alembic.operations import ops

from prefiq_db.migrate.lint.alterations import clauses_of
from prefiq_db.migrate.lint.references import References, on_existing
from prefiq_db.migrate.lint.revision_reader import Reading, Step
from prefiq_db.migrate.lint.sql import changed_table

_CREATE_INDEX: Final = re.compile(r"CREATE (?:UNIQUE |FULLTEXT |SPATIAL )?INDEX\b", re.I)
_INDEX: Final = re.compile(rf"{_CREATE_INDEX.pattern}|DROP INDEX\b", re.I)
_ADD_INDEX: Final = re.compile(r"ALTER TABLE .*\bADD (?:UNIQUE |FULLTEXT |SPATIAL )?(?:INDEX|KEY)\b", re.I | re.S)
_ADD_CHECKED: Final = re.compile(r"ALTER TABLE .*\bADD (?:CONSTRAINT \S+ )?(FOREIGN KEY|CHECK)\b", re.I | re.S)


def index_blocks(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        for sql in step.sql:
            if _INDEX.match(sql) and not _says(sql, "CONCURRENTLY"):
                yield step, changed_table(sql) or "the table"


def concurrently_in_transaction(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in reading.steps:
        if not step.autocommit and any(_INDEX.match(sql) and _says(sql, "CONCURRENTLY") for sql in step.sql):
            yield step, "CONCURRENTLY"


def unique_blocks(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        if isinstance(step.operation, ops.CreateUniqueConstraintOp):
            yield step, step.operation.table_name
        for clause in clauses_of(step):
            added = clause.kind == "add-unique" or (clause.kind == "add-column" and clause.says("UNIQUE"))
            if added and not clause.says("USING INDEX"):
                yield step, clause.table


def index_copies(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        for sql in step.sql:
            if (_CREATE_INDEX.match(sql) or _ADD_INDEX.match(sql)) and not _says(sql, "ALGORITHM"):
                yield step, changed_table(sql) or "the table"


def constraint_validates(reading: Reading, references: References) -> Iterator[tuple[Step, str]]:
    for step in on_existing(reading):
        for clause in clauses_of(step):
            if clause.kind == "add-checked" and not clause.says("NOT VALID"):
                yield step, f"a {clause.column.upper()} of {clause.table}"
            elif clause.kind == "add-column" and clause.says("REFERENCES|CHECK"):
                yield step, f"a constraint of {clause.subject}"
        if isinstance(step.operation, ops.ExecuteSQLOp):
            continue
        for sql in step.sql:
            if (found := _ADD_CHECKED.match(sql)) and not _says(sql, "NOT VALID"):
                yield step, f"a {found[1].upper()} of {changed_table(sql) or 'a table'}"


def _says(sql: str, words: str) -> bool:
    return words in sql.upper()
