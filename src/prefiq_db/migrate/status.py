"""``status`` and ``check``: a database's revisions, a half-applied one, and who is migrating it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from prefiq_db.migrate.environment import MIGRATED
from prefiq_db.migrate.file_lock import file_lock
from prefiq_db.migrate.half_applied import describe_half_applied
from prefiq_db.migrate.locks import server_lock
from prefiq_db.migrate.revisions import Comparison, compare, parents_in
from prefiq_db.migrate.run_log import RunLog, Unfinished
from prefiq_db.migrate.traits import Traits, traits_of


@dataclass(frozen=True, slots=True)
class Status:
    """The status of one database in one history.

    Attributes:
        database: its name.
        traits: what kind of database it is.
        revisions: the database's revisions and the code's.
        unfinished: the revision that is half applied, or ``None``.
        lock_holder: who is migrating it now, for messages; ``""`` for nobody.
    """

    database: str
    traits: Traits
    revisions: Comparison
    unfinished: Unfinished | None
    lock_holder: str

    @property
    def well(self) -> bool:
        """Whether nothing is left to do."""
        return not self.revisions.behind and self.unfinished is None

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        found = self.revisions
        where = ", ".join(found.current) or "base"
        if found.unknown:
            how = f"ahead of this code, which does not know {', '.join(found.unknown)}"
        elif found.missing:
            how = f"behind, {len(found.missing)} to apply: {', '.join(found.missing)}"
        else:
            how = "head"
        yield f"{self.database}: {found.version_table} at {where} ({how})"
        if self.lock_holder:
            yield f"{self.database}: the migration lock is held by {self.lock_holder}"
        if self.unfinished is not None:
            yield describe_half_applied(self.unfinished, self.traits, self.database)


def status_of(config: Config) -> Status:
    """Return the status of the database that ``config.attributes`` or its ``env.py`` name, in the history of *config*.

    Runs its ``env.py``, which knows the version table; changes nothing and takes no lock.
    """
    script = ScriptDirectory.from_config(config)
    found: list[Status] = []

    def look(heads: Any, ctx: MigrationContext) -> list[Any]:
        connection = ctx.connection
        assert connection is not None
        lock = server_lock(connection) or file_lock(connection)
        found.append(
            Status(
                config.attributes[MIGRATED],
                traits_of(connection.dialect.name),
                compare(parents_in(script), heads, ctx.version_table),
                RunLog(connection, ctx.version_table, ctx.version_table_schema).unfinished(),
                "" if lock is None else lock.holder(),
            )
        )
        return []

    with EnvironmentContext(config, script, fn=look, dont_mutate=True):
        script.run_env()
    return found[0]
