"""Old names that still work: each warns with what to write instead."""

from __future__ import annotations

import warnings

from prefiq_db.errors import UsageError


def warn_renamed(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn that *old* is called *new* now; *stacklevel* counts from the caller of this function, as in ``warnings``."""
    warnings.warn(f"{old} is deprecated: write {new}", DeprecationWarning, stacklevel=stacklevel + 1)


def renamed_seconds(call: str, old: str, new: str, value: float | None, old_value: float | None) -> float | None:
    """Return the argument *new* of the function *call*, given by either name.

    Raises:
        UsageError: both were said.
    """
    if old_value is None:
        return value
    if value is not None:
        raise UsageError(f"{call}: say {new}= alone; {old}= is its old name")
    warn_renamed(f"{call}({old}=...)", f"{call}({new}=...)", stacklevel=3)
    return old_value
