"""What psycopg has prepared and the server can use no longer: somebody altered a table, or a pooler is between us.

psycopg prepares a statement when it has seen it five times, and drops what it prepared only after a ROLLBACK, DROP or
ALTER of its own. So a pooled connection that only ever commits would fail with such a statement for good.
"""

from __future__ import annotations

import re
from typing import Any, Final

# Set on psycopg's exception, for translate(): nothing of the statement was done, and prepared anew it may work.
OUTDATED: Final = "prefiq_db_outdated"

# What the server says when it looks at a prepared statement again: a result of another shape, an operator or function
# that isn't there for the types that it found the first time (class 42), a type that is gone. If it is the statement
# itself that is wrong, it says so again to the new one.
_AGED: Final = ("0A000", "XX000")
# Somebody else's session: prepared statements are missing, or there already.
_MISSING, _THERE = "26000", "42P05"
_IDLE: Final = 0  # psycopg.pq.TransactionStatus.IDLE

# What may commit in its middle, so that its failure doesn't mean that nothing was done.
_MAY_COMMIT: Final = re.compile(r"\bcall\b|\bdo\b(?!\s+(?:nothing|update)\b)", re.I)


def names_of(cursor: Any) -> tuple[Any, ...]:
    """Return the keys of what is prepared now, each with its text first."""
    return tuple(cursor._conn._prepared._names)


def is_outdated(cursor: Any, error: Any, statement: str, parameters: Any, names: tuple[Any, ...]) -> bool:
    """Return whether *error* is about a statement that was prepared too long ago; what is prepared is forgotten then.

    Args:
        cursor: psycopg's, that was to execute *statement*.
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
    _forget(cursor._conn, for_good=code in (_MISSING, _THERE))
    return True


def is_repeatable(cursor: Any, statement: str) -> bool:
    """Return whether *statement*, which has just failed, may be sent again: it was all undone, and nothing is open."""
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
    # The session at the other end isn't ours alone: nothing is prepared there any more, and nothing of others dropped.
    manager._names.clear()
    manager._counts.clear()
    manager._to_flush.clear()
    manager.prepare_threshold = None
