"""One run of migrations on one connection; every command ends here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo, RevisionStep
from sqlalchemy import event

from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.migrate.defaults import as_text_clause
from prefiq_db.migrate.foreign_keys import Check, foreign_keys_off
from prefiq_db.migrate.half_applied import find_resumption, wrong_way_error
from prefiq_db.migrate.history import History
from prefiq_db.migrate.long_ids import refuse_long_ids
from prefiq_db.migrate.migrate_options import MigrateOptions
from prefiq_db.migrate.recorder import Recorder
from prefiq_db.migrate.run_log import RunLog, Step
from prefiq_db.migrate.traits import Traits, traits_of

#: Called after each revision, with the revision and the heads that the database has now.
OnApply = Callable[[MigrationInfo, Collection[str]], None]

_Steps = Callable[[Any, MigrationContext], Iterable[RevisionStep]]
_UP_AND_DOWN: Final = {True: "up", False: "down"}


@dataclass(frozen=True, slots=True)
class Run:
    """The work on one database, with the place and remains of a failure for messages."""

    history: History
    database: str
    options: MigrateOptions
    on_version_apply: OnApply | None = None
    failed_at: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)


def look_on(connection: sa.Connection, run: Run) -> None:
    """Run a command that changes no revision: ``current``, ``check``, autogenerate."""
    _configure(connection, run, traits_of(connection.dialect.name))
    with context.begin_transaction():
        context.run_migrations()


def migrate_on(connection: sa.Connection, run: Run) -> None:
    """Run a command that changes revisions; the caller holds the lock.

    Where the server allows it, each revision is one transaction, which also writes its version: PostgreSQL, and SQLite
    because of its own BEGIN. MariaDB commits at each DDL statement; the run log holds what is applied by then. In a
    caller's transaction, the caller commits everything.
    """
    traits = traits_of(connection.dialect.name)
    is_theirs = connection.in_transaction()
    with ExitStack() as stack:
        stack.enter_context(_defaults_as_told())
        check: Check | None = None
        if is_theirs and traits.ddl_commits:
            # The caller's transaction ends at the first DDL anyway; a new one sees what the last deployer did.
            connection.exec_driver_sql(traits.begin)
            stack.callback(_commit, connection)
        if traits.alters_by_rebuild:
            check = stack.enter_context(foreign_keys_off(connection, run.database))
            stack.enter_context(_beginning(connection, traits))
        recorder = _configure(connection, run, traits, check)
        try:
            with recorder.listening(), context.begin_transaction():
                context.run_migrations()
            if not is_theirs:
                connection.rollback()  # ends transactions that only read: each revision has committed
            recorder.clean_up()
        except BaseException as error:
            if not is_theirs:
                _roll_back(connection)
            run.failed_at.append(recorder.place())
            run.left_behind.extend(recorder.note_failure(error, run.database))
            raise


def _configure(connection: sa.Connection, run: Run, traits: Traits, check: Check | None = None) -> Recorder:
    history = run.history

    def note_applied(
        ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
    ) -> None:
        if check is not None:
            check(str(step.up_revision_id))
        recorder.finish()
        if not heads:
            # Leave no trace: after the last downgrade Alembic would keep its empty table.
            recorder.version_table.drop(connection)
        if run.on_version_apply is not None:
            run.on_version_apply(step, heads)

    configured = history.make_configuration(connection.dialect)
    theirs = configured.pop("on_version_apply", ())
    callbacks: Any = (note_applied, *((theirs,) if callable(theirs) else theirs))
    context.configure(
        **configured,
        connection=connection,
        transactional_ddl=not traits.ddl_commits,
        transaction_per_migration=True,
        on_version_apply=callbacks,
    )
    ctx = context.get_context()
    log = RunLog(connection, history.version_table, history.version_table_schema)
    recorder = Recorder(connection, log, traits, ctx._version)
    if "destination_rev" in ctx.opts and ctx._migrations_fn is not None:
        ctx._migrations_fn = _guard(refuse_long_ids(ctx._migrations_fn), run, traits, recorder)
    return recorder


def _guard(original: _Steps, run: Run, traits: Traits, recorder: Recorder) -> _Steps:
    """Return Alembic's steps, after checking the run log: nothing runs on top of a half-applied revision."""

    def steps(heads: Any, ctx: MigrationContext) -> Iterator[RevisionStep]:
        if "purge" in ctx.opts:  # stamp: the user declares the database's revision
            recorder.log.clear()
            if not ctx._in_external_transaction:
                recorder.connection.commit()
            yield from original(heads, ctx)
            return
        resuming = find_resumption(recorder.log.unfinished(), run.options, traits, run.database)
        for step in original(heads, ctx):
            this = Step(run.history.version_table, str(step.info.up_revision_id), _UP_AND_DOWN[step.is_upgrade])
            if resuming is not None and resuming.unfinished.step != this:
                break
            recorder.start(this, resuming)
            resuming = None
            yield step
        if resuming is not None:
            raise wrong_way_error(resuming.unfinished, traits, run.database)

    return steps


class _Escaped(str):
    """SQL from the database, escaped so that ``text()`` keeps it unchanged."""


@contextmanager
def _defaults_as_told() -> Iterator[None]:
    """Escape reflected SQL, so that a rebuild can create the table again: ``:word`` in it is no bind."""

    def escape(inspector: sa.Inspector, table: sa.Table, column: Any) -> None:
        for place, key in ((column, "default"), (column.get("computed") or {}, "sqltext")):
            if isinstance(place.get(key), str) and not isinstance(place[key], _Escaped):
                place[key] = _Escaped(as_text_clause(place[key]))

    event.listen(sa.Table, "column_reflect", escape)
    try:
        yield
    finally:
        event.remove(sa.Table, "column_reflect", escape)


@contextmanager
def _beginning(connection: sa.Connection, traits: Traits) -> Iterator[None]:
    """Begin each transaction of SQLite with BEGIN IMMEDIATE.

    A writer that begins as a reader fails if another connection wrote in the meantime; and Python's own driver sends no
    BEGIN before DDL, so that half of a failing revision would stay.
    """
    if isinstance(connection.dialect, PrefiqDialect):
        transaction = connection.dialect.session_of(connection.connection).transaction
        before, transaction.write = transaction.write, True
        try:
            yield
        finally:
            transaction.write = before
        return

    def begin(connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            # Through the driver's cursor, because it is not one of the revision's statements.
            connection.connection.cursor().execute(traits.begin)

    event.listen(connection, "begin", begin)
    try:
        if connection.in_transaction():
            begin(connection)
        yield
    finally:
        event.remove(connection, "begin", begin)


def _roll_back(connection: sa.Connection) -> None:
    with suppress(sa.exc.SQLAlchemyError):  # the connection itself may have failed
        connection.rollback()


def _commit(connection: sa.Connection) -> None:
    with suppress(sa.exc.SQLAlchemyError):
        connection.exec_driver_sql("COMMIT")
