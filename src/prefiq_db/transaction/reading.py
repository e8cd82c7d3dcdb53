"""The read-only transaction that a stream opens for itself."""

from __future__ import annotations

from prefiq_db.reports import Outcome
from prefiq_db.transaction.root import RootBlock


class ReadBlock(RootBlock):
    """A read-only transaction that no other call joins: what the reader of a stream writes goes its own way.

    It writes nothing, so it ends with ROLLBACK, whose failure costs nobody anything.
    """

    def _become_ambient(self) -> None:
        """Do nothing."""

    def _commit_or_roll_back(self, error: BaseException | None) -> None:
        self._roll_back(Outcome.COMMITTED if error is None else Outcome.NOT_COMMITTED)
