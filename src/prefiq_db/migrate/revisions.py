"""Compare the revisions of the code with those of a database."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import to_tuple

from prefiq_db.errors import UsageError

Parents = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between a database and the code.

    Attributes:
        version_table: names the history.
        current: the heads of the database.
        missing: revisions of the code that the database doesn't have, oldest first.
        unknown: heads of the database that the code doesn't know: a newer version has migrated it.
    """

    version_table: str
    current: tuple[str, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def behind(self) -> bool:
        """Whether the code is newer than the database; ahead is fine, as during a rolling deployment."""
        return bool(self.missing) and not self.unknown


def compare(parents: Parents, current: Collection[str], version_table: str) -> Comparison:
    """Compare the heads of a database with the code's revisions."""
    applied: set[str] = set()
    waiting = [revision for revision in current if revision in parents]
    while waiting:
        revision = waiting.pop()
        if revision not in applied:
            applied.add(revision)
            waiting += [parent for parent in parents[revision] if parent in parents]
    return Comparison(
        version_table,
        current=tuple(sorted(current)),
        missing=tuple(revision for revision in parents if revision not in applied),
        unknown=tuple(sorted(revision for revision in current if revision not in parents)),
    )


def parents_in(script: ScriptDirectory) -> Parents:
    """Return every revision with those that it depends on, oldest first."""
    newest_first = list(script.walk_revisions())
    return {
        each.revision: to_tuple(each.down_revision, default=()) + to_tuple(each.dependencies, default=())
        for each in reversed(newest_first)
    }


@lru_cache(maxsize=32)
def parents_at(path: str) -> Parents:
    """Return the revisions of the history at *path*, a directory with an ``env.py`` or an ``alembic.ini``.

    Read once, because the code of a running process doesn't change.

    Raises:
        UsageError: there is no history.
    """
    place = Path(path)
    if place.is_file():
        return parents_in(ScriptDirectory.from_config(Config(os.fspath(place))))
    if not (place / "env.py").is_file():
        raise UsageError(f"{place}: expected an alembic.ini, or a directory with an env.py")
    return parents_in(ScriptDirectory(os.fspath(place)))
