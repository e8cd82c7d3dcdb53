"""What the calls of a document database take, and what they don't."""

from __future__ import annotations

from prefiq_db.errors import UnsupportedError
from prefiq_db.overrides import OverrideOptions


class DocumentOverrides(OverrideOptions, total=False):
    """The arguments of ``using`` and ``override``, for type checkers."""

    replica: bool | None


def refuse_isolation(isolation: str | None) -> None:
    """Raise if an isolation level is asked for."""
    if isolation is not None:
        raise UnsupportedError(
            "isolation: MongoDB's transactions have no levels; say readConcernLevel in the URL, and leave it out here"
        )
