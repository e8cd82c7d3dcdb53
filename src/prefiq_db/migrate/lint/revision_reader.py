"""Run a revision's ``upgrade()`` without a database and record each operation: what it is, where, and its SQL.

Alembic's own offline mode writes the SQL. Two things that it can't do are replaced: a rebuild of a SQLite table
(``batch_alter_table`` would reflect it), whose operations are only recorded, and ``op.get_bind()``, which records
statements and returns no rows.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import sqlalchemy as sa
from alembic.operations import BatchOperations, Operations, ops
from alembic.runtime.migration import MigrationContext
from alembic.script import Script

from prefiq_db.migrate.lint.standins import BatchImpl, Bind, Statements, bare
from prefiq_db.migrate.lint.texts import split_statements
from prefiq_db.migrate.traits import traits_of


@dataclass(frozen=True, slots=True)
class Batch:
    """An enclosing ``batch_alter_table``."""

    table: str
    recreate: str
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """One operation.

    Attributes:
        operation: Alembic's object; a statement through ``op.get_bind()`` is an ``ExecuteSQLOp``, too.
        lines: where it is called in the file: the innermost line first, then those of helpers' callers.
        sql: the statements that it would send; none inside a SQLite batch. For the revision's own text: one, in the
            form that :func:`~prefiq_db.migrate.lint.texts.statements` returns.
        batch: the batch that it is in.
        autocommit: whether it is in an ``autocommit_block()``.
        refusal: why Alembic can't write it, as the class of its exception.
    """

    operation: ops.MigrateOperation
    lines: tuple[int, ...]
    sql: tuple[str, ...] = ()
    batch: Batch | None = None
    autocommit: bool = False
    refusal: str = ""

    @property
    def line(self) -> int:
        return self.lines[0]


@dataclass(slots=True)
class Reading:
    """What a revision does on one kind of database, as far as it could be read.

    Attributes:
        problem: the type of the exception that stopped the reading, and its line.
    """

    dialect: str
    steps: list[Step] = field(default_factory=list)
    problem: tuple[str, int] | None = None


def read(revision: Script, dialect: str) -> Reading:
    """Return what the upgrade of *revision* would do on *dialect*."""
    reader = _Reader(revision.path, dialect)
    upgrade = getattr(revision.module, "upgrade", None)
    if upgrade is not None:
        reader.run(upgrade)
    return reader.reading


class _Reader:
    def __init__(self, path: str, dialect: str) -> None:
        self.path = path
        self.reading = Reading(dialect)
        self.buffer = Statements()
        self.context = MigrationContext.configure(
            dialect_name=dialect, opts={"as_sql": True, "output_buffer": self.buffer, "literal_binds": True}
        )
        self.batch: Batch | None = None
        self.autocommit = False

    def run(self, upgrade: Any) -> None:
        with Operations.context(self.context) as operations:
            # The module alembic.op calls this very object, so a revision gets its attributes.
            replaced: Any = operations
            replaced.invoke = lambda operation: self.invoke(operations, operation)
            replaced.get_bind = lambda: Bind(self.note_executed, self.context.dialect)
            replaced.batch_alter_table = lambda *args, **kwargs: self.begin_batch(operations, *args, **kwargs)
            replaced_context: Any = self.context
            replaced_context.autocommit_block = self.begin_autocommit
            try:
                upgrade()
            except Exception as error:  # noqa: BLE001 - a revision may raise anything; its failure is a finding
                lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if self._is_ours(frame)]
                self.reading.problem = (type(error).__name__, lines[-1] or 1 if lines else 1)

    def _is_ours(self, frame: traceback.FrameSummary) -> bool:
        return frame.filename == self.path

    # --- called by a revision --------------------------------------------------------------------

    def invoke(self, operations: Operations, operation: ops.MigrateOperation) -> Any:
        lines = self._lines()
        rebuilt = self.batch is not None and traits_of(self.reading.dialect).alters_by_rebuild
        result, refusal, before = None, "", len(self.buffer.texts)
        if not rebuilt:
            try:
                result = Operations.invoke(operations, operation)
            except NotImplementedError as error:  # no ALTER for this
                refusal = type(error).__name__
        if result is None and isinstance(operation, ops.CreateTableOp):
            result = operation.to_table(self.context)
        self._note(operation, lines, tuple(self.buffer.texts[before:]), refusal)
        return result

    def note_executed(self, statement: Any) -> None:
        self._note(ops.ExecuteSQLOp(statement), self._lines(), (self._text_of(statement),))

    @contextmanager
    def begin_batch(
        self, operations: Operations, table_name: str, schema: str | None = None, recreate: str = "auto", **kwargs: Any
    ) -> Iterator[BatchOperations]:
        impl: Any = BatchImpl(operations.impl, table_name, schema)
        inner = BatchOperations(self.context, impl=impl)
        replaced: Any = inner
        replaced.invoke = lambda operation: self.invoke(operations, operation)
        outside, self.batch = self.batch, Batch(table_name, recreate, self._lines()[0])
        try:
            yield inner
        finally:
            self.batch = outside

    @contextmanager
    def begin_autocommit(self) -> Iterator[None]:
        self.autocommit = True
        try:
            yield
        finally:
            self.autocommit = False

    # --- pieces ----------------------------------------------------------------------------------

    def _note(
        self, operation: ops.MigrateOperation, lines: tuple[int, ...], sql: tuple[str, ...], refusal: str = ""
    ) -> None:
        if self.batch is not None:
            lines = (*lines, self.batch.line)
        # One text may hold several statements; each is a step.
        brings = isinstance(operation, ops.ExecuteSQLOp) and any(sql)
        texts = [each for text in sql for each in split_statements(text, self.reading.dialect)]
        for each in [(text,) for text in texts] if brings else [sql]:
            self.reading.steps.append(Step(operation, lines, each, self.batch, self.autocommit, refusal))

    def _lines(self) -> tuple[int, ...]:
        """Return the lines of the revision's file that called us, the innermost first."""
        lines = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename == self.path:
                lines.append(frame.f_lineno)
            frame = frame.f_back
        return tuple(lines) or (1,)

    def _text_of(self, statement: Any) -> str:
        if isinstance(statement, str):
            return bare(statement)
        try:
            text = str(statement.compile(dialect=self.context.dialect))
        except sa.exc.SQLAlchemyError:
            text = str(statement)
        return bare(text)
