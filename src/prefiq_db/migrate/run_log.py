"""The run log: which statements of a revision are applied, where the database commits before the revision is complete.

It is written on the migrating connection, in the revision's own transaction. So it is always right: a rollback removes
an entry together with its statement, and a commit keeps both, even the implicit commits of DDL on MariaDB. The first
statement of a run creates the table; a run that ends with nothing unfinished drops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

LOG_TABLE: Final = "prefiq_migration_log"

STARTED, DONE, FAILED = "started", "done", "failed"

#: Noted for a failure that is not undone: an invalid index exists.
LEAVES: Final = "; leaves an invalid index"

_STATEMENT_LENGTH: Final = 2000


@dataclass(frozen=True, slots=True)
class Step:
    """One revision being applied.

    Attributes:
        version_table: names the history.
        revision: its id.
        direction: ``up`` or ``down``.
    """

    version_table: str
    revision: str
    direction: str


@dataclass(frozen=True, slots=True)
class Logged:
    """One statement of a revision: its number from 1, its text without values, and its state."""

    position: int
    statement: str
    state: str
    error: str


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A revision that is half applied."""

    step: Step
    statements: tuple[Logged, ...]

    @property
    def in_flight(self) -> Logged | None:
        """The statement that may or may not be applied."""
        last = self.statements[-1]
        return last if last.state == STARTED else None

    @property
    def leaves_an_index(self) -> Logged | None:
        """The failed statement that has left an invalid index."""
        return next((each for each in self.statements if each.state == FAILED and each.error.endswith(LEAVES)), None)

    @property
    def next_position(self) -> int:
        """The statement to go on with: the first that is not recorded as done."""
        return next((each.position for each in self.statements if each.state != DONE), self.statements[-1].position + 1)


class RunLog:
    """The log of one history, on one connection; ``schema`` is that of the version table."""

    def __init__(self, connection: sa.Connection, version_table: str, schema: str | None = None) -> None:
        self.connection = connection
        self.version_table = version_table
        self.schema = schema
        self.table = sa.Table(
            LOG_TABLE,
            sa.MetaData(),
            sa.Column("version_table", sa.String(64), primary_key=True),
            sa.Column("revision", sa.String(64), primary_key=True),
            sa.Column("direction", sa.String(4), primary_key=True),
            sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("state", sa.String(8), nullable=False),
            sa.Column("error", sa.String(64), nullable=False),
            sa.Column("statement", sa.Text, nullable=False),
            schema=schema,
            mysql_engine="InnoDB",
            mariadb_engine="InnoDB",
        )

    # --- reading ---------------------------------------------------------------------------------

    def exists(self) -> bool:
        return sa.inspect(self.connection).has_table(LOG_TABLE, schema=self.schema)

    def unfinished(self) -> Unfinished | None:
        """Return the half-applied revision of this history; there is at most one, since it blocks all others."""
        if not self.exists():
            return None
        columns = self.table.c
        ours = sa.select(self.table).where(columns.version_table == self.version_table).order_by(columns.position)
        rows = self.connection.execute(ours).all()
        if not rows:
            return None
        step = Step(self.version_table, rows[0].revision, rows[0].direction)
        return Unfinished(step, tuple(Logged(row.position, row.statement, row.state, row.error) for row in rows))

    # --- writing ---------------------------------------------------------------------------------

    def create(self) -> None:
        self.table.create(self.connection)

    def drop_if_empty(self) -> None:
        if self.exists() and self.connection.scalar(sa.select(sa.func.count()).select_from(self.table)) == 0:
            self.table.drop(self.connection)

    def started(self, step: Step, position: int, statement: str) -> None:
        self.connection.execute(
            self.table.insert().values(
                version_table=step.version_table,
                revision=step.revision,
                direction=step.direction,
                position=position,
                state=STARTED,
                error="",
                statement=statement[:_STATEMENT_LENGTH],
            )
        )

    def done(self, step: Step, position: int) -> None:
        self.connection.execute(self._rows(step, position).values(state=DONE))

    def failed(self, step: Step, position: int, error: str) -> None:
        self.connection.execute(self._rows(step, position).values(state=FAILED, error=error[:64]))

    def forget(self, step: Step, *, from_position: int = 1) -> None:
        """Remove a revision, or its statements from a position on."""
        self.connection.execute(self.table.delete().where(*self._of(step), self.table.c.position >= from_position))

    def clear(self) -> None:
        """Remove everything of this history: the user declared the database's revision."""
        if self.exists():
            self.connection.execute(self.table.delete().where(self.table.c.version_table == self.version_table))

    def _rows(self, step: Step, position: int) -> sa.Update:
        return self.table.update().where(*self._of(step), self.table.c.position == position)

    def _of(self, step: Step) -> tuple[sa.ColumnElement[bool], ...]:
        columns = self.table.c
        return (
            columns.version_table == step.version_table,
            columns.revision == step.revision,
            columns.direction == step.direction,
        )


def same_statement(recorded: str, statement: str) -> bool:
    """Return whether a recorded statement equals the one at its position now."""
    return recorded == statement[:_STATEMENT_LENGTH]
