"""A read whose reply was lost may be repeated only if all its functions are built-in ones."""

from __future__ import annotations

from collections.abc import Callable

from prefiq_db.errors import PrefiqDbError
from prefiq_db.translation.classify import leaves_unknown


class Doubt:
    """Whether a statement that looks like a read may have been a write.

    PostgreSQL calls a user-defined ``log(text)`` instead of the built-in one where it fits better, and the SQL text
    doesn't show which. Asking costs a round trip, so it is done only after a reply was lost, before the statement is
    sent again.

    Args:
        names: built-in functions that a user-defined one may replace; if empty, there is no doubt.
        taken: asks the server whether one does.
    """

    def __init__(self, names: frozenset[str], taken: Callable[[frozenset[str]], bool]) -> None:
        self._names = names
        self._taken = taken
        self.is_open = False

    def note(self, error: PrefiqDbError) -> None:
        """Begin to doubt if, after *error*, the statement may have been carried out."""
        if self._names and fate_unknown(error):
            self.is_open = True

    def settles(self) -> bool:
        """Return whether the statement called a user-defined function; either way the doubt is settled."""
        if not self.is_open:
            return False
        taken = self._taken(self._names)
        self.is_open = False
        if not taken:
            self._names = frozenset()
        return taken


def fate_unknown(error: PrefiqDbError) -> bool:
    """Return whether a statement that failed with *error* may still have been carried out."""
    return leaves_unknown(error.classification)
