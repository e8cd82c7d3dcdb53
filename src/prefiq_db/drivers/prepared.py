"""Statements that psycopg has prepared and the server can't use any more, after a schema change or behind a pooler.

psycopg prepares a statement that it has seen five times, and drops prepared statements only after a ROLLBACK, DROP or
ALTER of its own. So a pooled connection that only ever commits would fail with such a statement for good.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

# Set on psycopg's exception, for translate(): nothing of the statement ran, and prepared again it may work.
OUTDATED: Final = "prefiq_db_outdated"

# The server's errors when it checks a prepared statement again: another result type, an operator or function that is
# missing for the types that it found the first time (class 42), a missing type. If the statement itself is wrong, the
# new one fails with the same error.
_AGED: Final = ("0A000", "XX000")
# Another client's session: prepared statements are missing, or already there.
_MISSING, _THERE = "26000", "42P05"
OF_ANOTHER_CLIENT: Final = frozenset({_MISSING, _THERE})
_IDLE: Final = 0  # psycopg.pq.TransactionStatus.IDLE

# Statements that may commit before they fail, so that a failure doesn't mean that nothing was done.
_MAY_COMMIT: Final = re.compile(r"\bcall\b|\bdo\b(?!\s+(?:nothing|update)\b)", re.I)


def names_of(cursor: Any) -> tuple[Any, ...]:
    """Return the keys of the statements that are prepared now; each key begins with the text."""
    return tuple(cursor._conn._prepared._names)


@contextmanager
def unprepared(cursor: Any) -> Iterator[None]:
    """Return a block in which psycopg neither prepares nor counts: each length of a list is another text.

    They would drive other statements out of the hundred that a connection remembers.
    """
    manager = cursor._conn._prepared
    threshold, manager.prepare_threshold = manager.prepare_threshold, None
    try:
        yield
    finally:
        manager.prepare_threshold = threshold


def is_outdated(cursor: Any, error: Any, statement: str, parameters: Any, names: tuple[Any, ...]) -> bool:
    """Return whether *error* means that a prepared statement is outdated; if so, forget all prepared statements.

    Args:
        cursor: psycopg's cursor that executed *statement*.
        names: what was prepared before.
    """
    code = getattr(error, "sqlstate", None)
    if code is None or not (code.startswith("42") or code in (*_AGED, _MISSING)):
        return False
    text = cursor._convert_query(statement, parameters).query
    prepared = any(name[0] == text for name in names)
    if not (prepared or (code == _THERE and _was_to_be_prepared(cursor, text))):
        return False
    setattr(error, OUTDATED, True)
    _forget(cursor._conn, for_good=code in OF_ANOTHER_CLIENT)
    return True


def is_repeatable(cursor: Any, statement: str) -> bool:
    """Return whether *statement*, which has just failed, may be sent again: it was undone, no transaction is open."""
    return cursor._conn.pgconn.transaction_status == _IDLE and _MAY_COMMIT.search(statement) is None


def _was_to_be_prepared(cursor: Any, text: bytes) -> bool:
    manager = cursor._conn._prepared
    if manager.prepare_threshold is None:
        return False
    return any(name[0] == text and count >= manager.prepare_threshold for name, count in manager._counts.items())


def _forget(connection: Any, *, for_good: bool) -> None:
    manager = connection._prepared
    if not for_good:
        manager.clear()  # psycopg sends DEALLOCATE ALL with the next statement
        return
    # Other clients share the server's session: we prepare no more statements, and drop none of theirs.
    manager._names.clear()
    manager._counts.clear()
    manager._to_flush.clear()
    manager.prepare_threshold = None
