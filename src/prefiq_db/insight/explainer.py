"""Log the plan of a slow SELECT: opt-in, once per kind and hour, on another connection, with a short timeout.

Plain EXPLAIN only: ANALYZE would run the statement again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import ClauseElement, Executable
from sqlalchemy.ext.compiler import compiles

from prefiq_db.forks import renewed
from prefiq_db.masking import mask_statement

logger = logging.getLogger("prefiq_db.slow")

ONCE_IN_SECONDS: Final = 3600.0
LIMIT_SECONDS: Final = 1.0
_MOST: Final = 1000


class Explain(Executable, ClauseElement):
    """A statement with EXPLAIN before it, in the syntax of the database that it is compiled for."""

    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(Explain)
def _compile(element: Explain, compiler: Any, **options: Any) -> str:
    return f"{compiler.dialect.explain_words} {compiler.process(element.statement, **options)}"


class Explainer:
    """Decides which plan to ask for, and logs it."""

    def __init__(self, database: str, dialect: str, clock: Callable[[], float], *, masked: bool) -> None:
        self.database = database
        self.dialect = dialect
        self.masked = masked
        self._clock = clock
        self._lock = renewed(self, "_lock")
        self._asked: dict[str, float] = {}

    def admits(self, fingerprint: str) -> bool:
        """Return whether a plan for this kind of statement is due."""
        now = self._clock()
        with self._lock:
            last = self._asked.get(fingerprint)
            if last is not None and now - last < ONCE_IN_SECONDS:
                return False
            if len(self._asked) >= _MOST:
                self._asked.clear()
            self._asked[fingerprint] = now
            return True

    def log(self, fingerprint: str, rows: list[Any]) -> None:
        """Log a plan with its literals masked: conditions in it quote values."""
        plan = "\n".join("  ".join("" if cell is None else str(cell) for cell in row) for row in rows)
        logger.info(
            "plan of the slow statement %s on database %s:\n%s",
            fingerprint,
            self.database,
            mask_statement(plan, self.dialect, masked=self.masked),
            extra={"database": self.database, "fingerprint": fingerprint},
        )
