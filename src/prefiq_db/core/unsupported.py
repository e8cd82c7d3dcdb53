"""Errors for operations that a database can't do, or can't do yet."""

from __future__ import annotations

from typing import Any, NoReturn

from prefiq_db.errors import UnsupportedError, UsageError


def not_yet(verb: str) -> NoReturn:
    """Raise for a planned verb that is not implemented yet."""
    raise UnsupportedError(f"{verb}: not supported yet in this version of prefiq_db")


def unpicklable(database: Any) -> UsageError:
    """Return the error for pickling *database*."""
    return UsageError(
        f"{type(database).__name__} can't be pickled: connections belong to one process; pass its settings' source and "
        "make one there"
    )
