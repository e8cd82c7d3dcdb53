"""What a database refuses because it can't do it, or can't do it yet."""

from __future__ import annotations

from typing import Any, NoReturn

from prefiq_db.errors import UnsupportedError, UsageError


def not_yet(verb: str) -> NoReturn:
    """Raise for a verb of the design that has no implementation yet."""
    raise UnsupportedError(f"{verb}: not supported yet in this version of prefiq_db")


def unpicklable(database: Any) -> UsageError:
    """Return the error of pickling *database*."""
    return UsageError(
        f"{type(database).__name__} can't be pickled: connections belong to one process; pass its settings' source and "
        "make one there"
    )
