"""A read whose reply was lost may be repeated only when its functions are the database's own."""

from __future__ import annotations

from collections.abc import Callable

from prefiq_db.errors import PrefiqDbError
from prefiq_db.translation.classify import leaves_unknown


class Doubt:
    """Whether a statement that looks like a read may have been a write.

    PostgreSQL calls somebody's ``log(text)`` in the place of its own where that fits better, and no text tells. The
    question costs a round trip, so it is asked only after a reply was lost, and before the statement is sent again.

    Args:
        names: functions whose place somebody may have taken; none of them: no doubt.
        taken: asks the server.
    """

    def __init__(self, names: frozenset[str], taken: Callable[[frozenset[str]], bool]) -> None:
        self._names = names
        self._taken = taken
        self.is_open = False

    def note(self, error: PrefiqDbError) -> None:
        """Begin to doubt, when after *error* the statement may have been carried out."""
        if self._names and fate_unknown(error):
            self.is_open = True

    def settles(self) -> bool:
        """Return whether the statement called a function of somebody's own; no doubt is left then, or when not."""
        if not self.is_open:
            return False
        taken = self._taken(self._names)
        self.is_open = False
        if not taken:
            self._names = frozenset()
        return taken


def fate_unknown(error: PrefiqDbError) -> bool:
    """Return whether a statement that failed with *error* may have been carried out all the same."""
    return leaves_unknown(error.classification)
