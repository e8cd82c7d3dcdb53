"""Where the primary key of a row is found that an INSERT of Core adds: where SQLAlchemy looks, with its functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Insert

#: the values say it, the cursor tells what the server made of it, or SQLAlchemy adds a RETURNING
VALUES, CURSOR, RETURNED = "values", "cursor", "returned"


class InsertedKey:
    """Where the key of an inserted row is found.

    Attributes:
        source: ``VALUES``, ``CURSOR`` or ``RETURNED``.
        format: how the rows of the added RETURNING are read; ``None`` before the first one.
    """

    __slots__ = ("format", "source")

    def __init__(self, source: str) -> None:
        self.source: Final = source
        self.format: Any = None

    def found(self, compiled: Any, values: Mapping[str, Any], reply: Any) -> Any:
        """Return the key.

        Args:
            compiled: SQLAlchemy's compiled statement.
            values: those of the binds, before any conversion.
            reply: the row that was returned, or what the driver's cursor told.
        """
        if self.source is RETURNED:
            return None if reply is None else compiled._inserted_primary_key_from_returning_getter(reply, values)
        return compiled._inserted_primary_key_from_lastrowid_getter(reply, values)


def key_of(statement: Insert, compiled: Any) -> InsertedKey | None:
    """Return where the key of *statement* is found; ``None``: it says itself what is returned."""
    if statement._returning:
        return None
    if compiled.implicit_returning:
        return InsertedKey(RETURNED)
    return InsertedKey(CURSOR if compiled.postfetch_lastrowid else VALUES)
