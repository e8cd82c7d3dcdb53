"""Whether a database has the code's newest revisions, for ``/readyz``."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from prefiq_db.errors import SchemaError, UsageError
from prefiq_db.migrate.history import VERSION_TABLE
from prefiq_db.migrate.location import migrations_directory
from prefiq_db.migrate.revisions import Comparison, Parents, compare, parents_at

if TYPE_CHECKING:
    from prefiq_db.database import Database
    from prefiq_db.database_async import AsyncDatabase


@dataclass(frozen=True, slots=True)
class Revisions:
    """A history to check.

    Attributes:
        path: the directory with its ``env.py``, or its ``alembic.ini``.
        version_table, version_table_schema: the table that records its revisions, as in its ``env.py``.
    """

    path: str | os.PathLike[str]
    version_table: str = "alembic_version"
    version_table_schema: str | None = None

    def current(self) -> sa.Select[Any]:
        table = sa.table(self.version_table, schema=self.version_table_schema)
        return sa.select(sa.column("version_num")).select_from(table)


@dataclass(frozen=True, slots=True)
class HeadReport:
    """The result; true if no history is behind.

    Attributes:
        database: the name of the database.
        histories: each history that was checked.
    """

    database: str
    histories: tuple[Comparison, ...]

    def __bool__(self) -> bool:
        return not any(each.behind for each in self.histories)

    @property
    def reason(self) -> str:
        """Why it is not at head, in a line without secrets; ``""`` if it is."""
        return "; ".join(
            f"{each.version_table} is at {', '.join(each.current) or 'base'}, and the code has {each.missing[-1]}"
            for each in self.histories
            if each.behind
        )


def at_head(db: Database, *histories: str | os.PathLike[str] | Revisions) -> HeadReport:
    """Return whether *db* has every revision of the code: prefiq_db's own, and those of *histories*.

    A database that is ahead (it has a revision that this code doesn't know) counts as at head: during a rolling
    deployment the older version goes on. The files are read once, the database is queried each time.

    Raises:
        UsageError: *db* is asynchronous (use ``await at_head_async(db)``), or a history does not exist.
        PrefiqDbError: the query failed.
    """
    _check_world(db, asynchronous=False)
    asked = _all(histories)
    found = []
    for each in asked:
        try:
            rows = db.fetch_all(each.current())
        except SchemaError:  # no version table: nothing was ever applied
            rows = []
        found.append(_compare(each, _parents(each), rows))
    return HeadReport(db.name, tuple(found))


async def at_head_async(db: AsyncDatabase, *histories: str | os.PathLike[str] | Revisions) -> HeadReport:
    """Return whether *db* has every revision of the code, as :func:`at_head` does."""
    _check_world(db, asynchronous=True)
    asked = _all(histories)
    found = []
    for each in asked:
        # The first time, reading the files imports every revision.
        parents = await asyncio.to_thread(_parents, each)
        try:
            rows = await db.fetch_all(each.current())
        except SchemaError:
            rows = []
        found.append(_compare(each, parents, rows))
    return HeadReport(db.name, tuple(found))


def _all(histories: tuple[str | os.PathLike[str] | Revisions, ...]) -> list[Revisions]:
    ours = Revisions(migrations_directory(), VERSION_TABLE)
    return [ours, *(each if isinstance(each, Revisions) else Revisions(each) for each in histories)]


def _parents(history: Revisions) -> Parents:
    return parents_at(os.path.abspath(history.path))


def _compare(history: Revisions, parents: Parents, rows: list[Any]) -> Comparison:
    return compare(parents, [row[0] for row in rows], history.version_table)


def _check_world(db: Any, *, asynchronous: bool) -> None:
    if getattr(db, "is_async", None) is not asynchronous:
        want, other = ("an AsyncDatabase", "at_head(db)") if asynchronous else ("a Database", "await at_head_async(db)")
        raise UsageError(f"expected {want}, not a {type(db).__name__}; for the other kind: {other}")
