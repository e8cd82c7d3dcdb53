"""Options of one migration run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from prefiq_db.errors import UsageError

_YES = frozenset({"", "1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """Options of one run; under the ``alembic`` command each is an ``-x name=value``, as in ``-x lock_wait=60``.

    Attributes:
        lock: take the migration lock, so that any number of deployers may run at once. Default yes.
        lock_wait: seconds to wait for another deployer. Default 300; worst case: the deployment waits that long and
            fails; the error names the lock's holder.
        lock_timeout: seconds that one statement waits for a lock on a table. Default 5: a statement that waits for an
            exclusive lock blocks all later ones, so a migration behind a long query gives up soon; run it again.
        statement_timeout: seconds that one statement may take. Default 3600: filling a column or building an index is
            slower than a service's statements.
        resume: go on with a half-applied revision, after the statements that are recorded as applied. Default no.
        resume_at: go on at this statement of it (the first is 1), whatever is recorded. Default: not set.
    """

    lock: bool = True
    lock_wait: float = 300.0
    lock_timeout: float = 5.0
    statement_timeout: float = 3600.0
    resume: bool = False
    resume_at: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("lock_wait", 0.0), ("lock_timeout", 0.001), ("statement_timeout", 0.001)):
            value = getattr(self, name)
            if not math.isfinite(value) or value < least:
                raise UsageError(f"{name}: expected seconds, at least {least:g}")
        if self.resume_at is not None and self.resume_at < 1:
            raise UsageError("resume_at: expected the number of a statement; the first is 1")

    @property
    def resumes(self) -> bool:
        return self.resume or self.resume_at is not None

    @classmethod
    def from_x(cls, arguments: Mapping[str, str]) -> Self:
        """Return the options in Alembic's ``-x name=value`` arguments; other names are ignored.

        Raises:
            UsageError: naming the argument that can't be read.
        """
        known = {field.name: str(field.type) for field in fields(cls)}
        read = {name: _read(name, text, known[name]) for name, text in arguments.items() if name in known}
        return cls(**read)


def _read(name: str, text: str, kind: str) -> Any:
    word = text.strip().lower()
    try:
        if kind == "bool":
            return {**dict.fromkeys(_YES, True), **dict.fromkeys(_NO, False)}[word]
        return float(word) if kind == "float" else int(word)
    except (KeyError, ValueError):
        expected = {"bool": "yes or no", "float": "seconds"}.get(kind, "a whole number")
    raise UsageError(f"-x {name}: expected {expected}")
