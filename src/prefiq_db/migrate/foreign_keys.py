"""SQLite's foreign keys during migrations: off, so that a table rebuild keeps its children; checked before each commit.

A rebuild (``batch_alter_table``) drops the old table, and with foreign keys on that deletes the rows of every child
with ON DELETE CASCADE, without an error. The switch does nothing inside a transaction, so it is set before BEGIN.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from prefiq_db.dialects.sqlite_rebuilds import DROPPED, children, orphans, told
from prefiq_db.errors import ForeignKeyViolationError, UnsupportedError

Check = Callable[[str], None]


@contextlib.contextmanager
def foreign_keys_off(connection: sa.Connection, database: str) -> Iterator[Check]:
    """Switch foreign keys off for a block that begins outside a transaction; yield the check to call before COMMIT.

    Inside a transaction they can't be switched off: then a DROP of a table that others refer to is refused.
    """
    before = _pragma(connection, "foreign_keys")
    _pragma(connection, "foreign_keys = OFF")
    known = _violations(connection)

    def check(revision: str) -> None:
        new = _violations(connection) - known
        if new:
            raise _find_violations(new, revision, database)

    try:
        if _pragma(connection, "foreign_keys") == [(1,)]:
            with _no_drop_of_parents(connection, database):
                yield check
        else:
            yield check
    finally:
        if before == [(1,)] and not connection.closed and not connection.invalidated:
            _pragma(connection, "foreign_keys = ON")


def _violations(connection: sa.Connection) -> Counter[tuple[str, str]]:
    return orphans(partial(_ask, connection))


def _find_violations(rows: Counter[tuple[str, str]], revision: str, database: str) -> ForeignKeyViolationError:
    return ForeignKeyViolationError(
        f"database {database}: revision {revision} would leave rows whose foreign key leads nowhere: {told(rows)}; "
        "nothing of it was applied",
        database=database,
        table=sorted(rows)[0][0],
    )


@contextlib.contextmanager
def _no_drop_of_parents(connection: sa.Connection, database: str) -> Iterator[None]:
    def before(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> None:
        dropped = DROPPED.match(statement)
        if dropped is None or not (referring := children(partial(_ask, connection), dropped["table"])):
            return
        raise UnsupportedError(
            f"database {database}: dropping {dropped['table']} would delete the rows of "
            f"{', '.join(referring)}: foreign keys are on, and inside the transaction of "
            "the given connection they can't be switched off; give a connection without an open transaction",
            database=database,
        )

    event.listen(connection, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", before)


def _pragma(connection: sa.Connection, words: str) -> list[Any]:
    return _ask(connection, f"PRAGMA {words}")


def _ask(connection: sa.Connection, sql: str) -> list[Any]:
    """Ask the driver directly: through SQLAlchemy the query would begin a transaction."""
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql)
        return list(cursor.fetchall())
    finally:
        cursor.close()
