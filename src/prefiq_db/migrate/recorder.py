"""Write each statement of a revision to the run log before it is sent, and skip those that an earlier run has applied.

It listens on the one migrating connection, and only during a run: so it also sees statements that a revision sends
through ``op.get_bind()``, which Alembic itself does not. (An application's engine gets no such listener, see
docs/decisions/0008-why-do-execute-is-overridden-in-the-dialect.md.)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event

from prefiq_db.errors import SchemaError
from prefiq_db.execution.statement_facts import facts_of_text
from prefiq_db.masking import mask_literals
from prefiq_db.migrate.run_log import DONE, LEAVES, RunLog, Step, Unfinished, same_statement
from prefiq_db.migrate.traits import Traits
from prefiq_db.translation.statement_names import read_statement
from prefiq_db.translation.translate import translate

# Statements that only read, or change only the session or transaction: a resumed run sends them again.
_LOOKS: Final = frozenset({"select", "show", "describe", "desc", "explain", "values"})
_SESSION: Final = frozenset({"pragma", "set", "use", "begin", "start", "commit", "rollback", "savepoint", "release"})
_CONCURRENTLY: Final = re.compile(r"\bCONCURRENTLY\b", re.I)
# The server chooses the index's name, or it rebuilds all indexes of a table.
_NAMES_NO_INDEX: Final = re.compile(
    r"\bindex\s+concurrently\s+on\b|\breindex\s+(?:\(.*?\)\s*)?(?:table|schema|database|system)\b", re.I | re.S
)
_BESIDE: Final = re.compile(r"_cc(?:new|old)\d*\Z")
_FIRST_WORD: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(\w*)", re.S)


@dataclass(frozen=True, slots=True)
class Resumption:
    """The statement to resume at in a half-applied revision, and the record of that revision."""

    unfinished: Unfinished
    position: int


class Recorder:
    """Records the statements of one run."""

    def __init__(self, connection: sa.Connection, log: RunLog, traits: Traits, version_table: sa.Table) -> None:
        self.connection = connection
        self.log = log
        self.traits = traits
        self.version_table = version_table
        self.step: Step | None = None
        self.resumption: Resumption | None = None
        self.position = 0
        self.in_flight = False
        self.statement = ""
        self._sent = ""  # the same with its values
        self._log_is_there = False
        self._silent = False

    # --- the revisions of a run ------------------------------------------------------------------

    def start(self, step: Step, resumption: Resumption | None) -> None:
        """Begin a revision; with a *resumption*, skip the statements before its position."""
        self.step, self.resumption = step, resumption
        self.position, self.in_flight = 0, False
        self._log_is_there = False
        if resumption is not None:
            with self._unheard():
                self.log.forget(step, from_position=resumption.position)

    def finish(self) -> None:
        """End the revision, in the transaction that wrote its version."""
        if self.step is not None and (self._log_is_there or self.resumption is not None):
            with self._unheard():
                self.log.forget(self.step)
        self.step = None

    def place(self) -> str:
        """Return the position of the run, for an error's message; ``""`` between two revisions."""
        if self.step is None:
            return ""
        statement = f", statement {self.position}: {self.statement}" if self.in_flight else ""
        return f"revision {self.step.revision}, {self.step.direction}{statement}"

    def note_failure(self, error: BaseException, database: str) -> list[str]:
        """Note that the statement in flight failed, if the server itself reported it; describe what it left behind.

        The server has undone the statement, except for what ``left_behind`` finds. Where everything was rolled back,
        the log was as well. After a lost connection nothing can be noted: the statement stays in flight, for it may be
        applied.
        """
        left: list[str] = []
        if self.step is None or self.connection.invalidated or self.connection.closed:
            return left
        failure = ""
        if self.in_flight and isinstance(error, Exception):
            found = translate(error, dialect=self.connection.dialect.name, database=database, apart=True)
            failure = "" if found.classification.connection_lost else f"{found.kind.value}, code {found.code or '-'}"
        # A failure to write the note must not hide the failure of the run.
        with contextlib.suppress(sa.exc.SQLAlchemyError), self._unheard():
            if not self.connection.in_transaction():
                with self.connection.begin():
                    left.extend(self._left_behind() if failure else ())
                    self._write_failure(self.step, failure, is_clean=not left)
            elif self.traits.ddl_commits:
                self._write_failure(self.step, failure)
                self.connection.exec_driver_sql("COMMIT")
        return left

    def _left_behind(self) -> Iterator[str]:
        """Yield what this statement left unfinished; other sessions may be building indexes, too."""
        written = None
        if self.traits.left_behind and _CONCURRENTLY.search(self._sent):
            written = read_statement(self._sent, None, self.connection.dialect.name)
        if written is None:
            return
        found = self.connection.exec_driver_sql(self.traits.left_behind).all()
        # REINDEX builds a new index beside the old one, under another name.
        named = [row for row in found if _BESIDE.sub("", row[0]).lower() in written.names]
        if not named and _NAMES_NO_INDEX.search(self._sent):
            named = [row for row in found if row[1].lower() in written.names]
        for name, table, removal in named:
            yield f"It left the invalid index {name} of {table}. Before you go on: {removal}"

    def _write_failure(self, step: Step, failure: str, *, is_clean: bool = True) -> None:
        unfinished = self.log.unfinished()
        if unfinished is not None and unfinished.step == step:
            if unfinished.in_flight is not None and failure:
                self.log.failed(step, unfinished.in_flight.position, f"{failure}{'' if is_clean else LEAVES}")
            if is_clean and all(each.state != DONE and failure for each in unfinished.statements):
                # The first statement failed: nothing is applied, so the next run can simply start again.
                self.log.forget(step)
        self.log.drop_if_empty()

    def clean_up(self) -> None:
        """Drop the log if it is empty."""
        if self.connection.in_transaction():
            self.log.drop_if_empty()
        else:
            with self.connection.begin():
                self.log.drop_if_empty()

    # --- the statements of a revision ------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        event.listen(self.connection, "before_cursor_execute", self._before, retval=True)
        event.listen(self.connection, "after_cursor_execute", self._after)
        try:
            yield
        finally:
            event.remove(self.connection, "before_cursor_execute", self._before)
            event.remove(self.connection, "after_cursor_execute", self._after)

    def _before(
        self, conn: sa.Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        if self.step is None or self._silent or not self._is_recorded(statement, context):
            return statement, parameters
        self.position += 1
        self._sent, self.statement = statement, (words := show_statement(statement))
        if self.resumption is not None and self.position < self.resumption.position:
            _check_same(self.resumption, self.position, words)
            return self.traits.nothing, ()
        with self._unheard():
            self._ensure_log()
            self.log.started(self.step, self.position, words)
        self.in_flight = True
        return statement, parameters

    def _after(
        self, conn: sa.Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        if self.step is None or self._silent or not self.in_flight:
            return
        self.in_flight = False
        with self._unheard():
            self.log.done(self.step, self.position)
            if facts_of_text(statement, self.connection.dialect.name).commits:
                self._begin_again()

    def _is_recorded(self, statement: str, context: Any) -> bool:
        compiled = getattr(context, "compiled", None)
        if getattr(getattr(compiled, "statement", None), "table", None) is self.version_table:
            return False
        match = _FIRST_WORD.match(statement)
        return match is None or match[1].lower() not in _LOOKS | _SESSION

    def _ensure_log(self) -> None:
        if not self._log_is_there:
            if not self.log.exists():
                self.log.create()
                self._begin_again()
            self._log_is_there = True

    def _begin_again(self) -> None:
        """Begin the transaction that a DDL statement has just ended, so that what follows can be rolled back."""
        autocommit = self.connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        if self.traits.ddl_commits and self.connection.in_transaction() and not autocommit:
            self.connection.exec_driver_sql(self.traits.begin)

    @contextlib.contextmanager
    def _unheard(self) -> Iterator[None]:
        """Send our own statements unrecorded: they are not the revision's."""
        before, self._silent = self._silent, True
        try:
            yield
        finally:
            self._silent = before


def show_statement(statement: str) -> str:
    """Return a statement in the form to show and store: one line, without literals and comments."""
    return " ".join(mask_literals(statement).split())


def _check_same(resumption: Resumption, position: int, statement: str) -> None:
    recorded = {each.position: each.statement for each in resumption.unfinished.statements}.get(position)
    if recorded is None or same_statement(recorded, statement):
        return
    raise SchemaError(
        f"revision {resumption.unfinished.step.revision} can't go on at statement {resumption.position}: its statement "
        f"{position} is applied as\n    {recorded}\nand reads now\n    {statement}\nChange it back; only what is not "
        "applied may change"
    )
