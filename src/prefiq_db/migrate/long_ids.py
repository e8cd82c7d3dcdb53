"""Refuse revision ids that are too long for the version table, before anything is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext, RevisionStep

from prefiq_db.errors import UsageError

Steps = Callable[[Any, MigrationContext], Iterable[RevisionStep]]


def refuse_long_ids(original: Steps) -> Steps:
    """Return Alembic's *original* steps, after checking the ids that they will write.

    SQLite would accept them; the others refuse the id when its revision is done, on MariaDB for good.
    """

    def steps(heads: Any, ctx: MigrationContext) -> Iterator[RevisionStep]:
        coming = list(original(heads, ctx))
        ids = dict.fromkeys(str(each) for step in coming for each in step.info.destination_revision_ids)
        _check(list(ids), ctx)
        yield from coming

    return steps


def _check(ids: list[str], ctx: MigrationContext) -> None:
    declared: Any = ctx._version.c.version_num.type
    if declared.length is None or all(len(each) <= declared.length for each in ids):
        return
    room = _room(ctx)
    too_long = [each for each in ids if room is not None and len(each) > room]
    if too_long:
        raise UsageError(
            f"revision {', '.join(too_long)}: expected an id of at most {room} characters, for {ctx.version_table} has "
            "room for no more; nothing was applied. Shorten it in `revision =`, and where another revision's "
            "`down_revision =` says it"
        )


def _room(ctx: MigrationContext) -> int | None:
    """Return how long an id may be in the existing table: its column may have been widened."""
    table = ctx._version
    length: int | None = table.c.version_num.type.length  # type: ignore[attr-defined]
    if not ctx.as_sql and ctx.connection is not None:
        inspector = sa.inspect(ctx.connection)
        if inspector.has_table(table.name, schema=table.schema):
            columns = inspector.get_columns(table.name, schema=table.schema)
            kind: Any = next(each["type"] for each in columns if each["name"] == "version_num")
            length = kind.length
    return length
