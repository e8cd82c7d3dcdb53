"""Errors for what nobody can do with a database object."""

from __future__ import annotations

from typing import Any

from prefiq_db.errors import UsageError


def unpicklable(database: Any) -> UsageError:
    """Return the error for pickling *database*."""
    return UsageError(
        f"{type(database).__name__} can't be pickled: connections belong to one process; pass its settings' source and "
        "make one there"
    )
