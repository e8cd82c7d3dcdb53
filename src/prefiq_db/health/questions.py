"""Whether a database is healthy, as a yes or no; ``db.health()`` gives the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefiq_db.deprecations import accept_old_name
from prefiq_db.errors import UsageError

if TYPE_CHECKING:
    from prefiq_db.database import Database
    from prefiq_db.database_async import AsyncDatabase


def is_healthy(db: Database, *, timeout: float | None = None, timeout_seconds: float | None = None) -> bool:
    """Return whether *db* answers and is ready for work now, as ``db.health()`` does: one attempt, no retries.

    *timeout* is in seconds; ``timeout_seconds`` is its old name.

    Raises:
        UsageError: *db* is asynchronous (use ``await is_healthy_async(db)``) or not a database.
    """
    if _is_async(db):
        raise UsageError("this database is asynchronous: use await is_healthy_async(db)")
    limit = accept_old_name("is_healthy", "timeout_seconds", "timeout", timeout, timeout_seconds)
    return db.health(limit).healthy


async def is_healthy_async(
    db: AsyncDatabase,
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - as in the sync API, which has no asyncio.timeout
    timeout_seconds: float | None = None,
) -> bool:
    """Return whether *db* answers and is ready for work now, as :func:`is_healthy` does.

    Raises:
        UsageError: *db* is synchronous (use ``is_healthy(db)``) or not a database.
    """
    if not _is_async(db):
        raise UsageError("this database is synchronous: use is_healthy(db)")
    limit = accept_old_name("is_healthy_async", "timeout_seconds", "timeout", timeout, timeout_seconds)
    return (await db.health(limit)).healthy


def _is_async(db: Any) -> bool:
    # Checks an attribute, not the class: databases that are not SQL have it too.
    is_async = getattr(db, "is_async", None)
    if not isinstance(is_async, bool) or not callable(getattr(db, "health", None)):
        raise UsageError(f"expected a Database or an AsyncDatabase, not a {type(db).__name__}")
    return is_async
