"""Old names that still work: each warns and names the replacement."""

from __future__ import annotations

import warnings

from prefiq_db.errors import UsageError


def warn_renamed(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn that *old* was renamed to *new*; *stacklevel* counts from this function's caller, as in ``warnings``."""
    warnings.warn(f"{old} is deprecated: write {new}", DeprecationWarning, stacklevel=stacklevel + 1)


def accept_old_name(call: str, old: str, new: str, value: float | None, old_value: float | None) -> float | None:
    """Return the argument *new* of the function *call*, given under its new or old name.

    Raises:
        UsageError: both were given.
    """
    if old_value is None:
        return value
    if value is not None:
        raise UsageError(f"{call}: say {new}= alone; {old}= is its old name")
    warn_renamed(f"{call}({old}=...)", f"{call}({new}=...)", stacklevel=3)
    return old_value
