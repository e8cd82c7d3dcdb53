"""Count the statements of a block: budgets and N+1 detection, for tests and development.

An N+1 here means the same statement from the same line, again and again in one scope. No ORM is involved, so loops over
plain SQL are found too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final, Self

from prefiq_db.errors import StatementBudgetError, UsageError
from prefiq_db.events import Line
from prefiq_db.forks import renewed
from prefiq_db.origin import application_line, readable

NO_BUDGETS: Final[Mapping[object, tuple[StatementBudget, ...]]] = MappingProxyType({})
open_budgets: ContextVar[Mapping[object, tuple[StatementBudget, ...]]] = ContextVar(
    "prefiq_db_budgets", default=NO_BUDGETS
)


class StatementBudget:
    """``with db.expect(max_statements=3):``, raising at the end of the block if it was exceeded.

    Statements of threads and tasks that were started inside the block count as well.
    """

    def __init__(self, key: object, *, max_statements: int | None, max_repeats: int | None) -> None:
        for name, value in (("max_statements", max_statements), ("max_repeats", max_repeats)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise UsageError(f"{name}: expected a whole number, at least 0")
        self._key = key
        self._max_statements = max_statements
        self._max_repeats = max_repeats
        self._lock = renewed(self, "_lock")
        self._seen: Counter[tuple[str, str, Line | None]] = Counter()

    @property
    def count(self) -> int:
        """How many statements were sent so far."""
        with self._lock:
            return self._seen.total()

    def note(self, fingerprint: str, summary: str, line: Line | None) -> None:
        with self._lock:
            self._seen[(fingerprint, summary, line)] += 1

    def __enter__(self) -> Self:
        before = open_budgets.get()
        open_budgets.set({**before, self._key: (*before.get(self._key, ()), self)})
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        current = open_budgets.get()
        rest = tuple(budget for budget in current.get(self._key, ()) if budget is not self)
        open_budgets.set({**current, self._key: rest})
        if exc_type is None:
            self.check()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        self.__exit__(exc_type, *exc)

    def check(self) -> None:
        """Raise :class:`StatementBudgetError` if a limit was exceeded; it names statements and lines."""
        with self._lock:
            seen = self._seen.most_common()
        repeated = [item for item in seen if self._max_repeats is not None and item[1] > self._max_repeats]
        if repeated:
            raise StatementBudgetError(
                f"the same statement from the same line more than {self._max_repeats} times (N+1):\n" + _table(repeated)
            )
        total = sum(count for _, count in seen)
        if self._max_statements is not None and total > self._max_statements:
            raise StatementBudgetError(
                f"{total} statements where at most {self._max_statements} were expected:\n" + _table(seen)
            )


def _table(rows: list[tuple[tuple[str, str, Line | None], int]]) -> str:
    return "\n".join(f"  {count} x {summary or 'statement'} at {readable(line)}" for (_, summary, line), count in rows)


def note_in_budgets(key: object, fingerprint: str, summary: str) -> None:
    """Count a statement in every budget that is open in this context."""
    budgets = open_budgets.get().get(key)
    if budgets:
        line = application_line()
        for budget in budgets:
            budget.note(fingerprint, summary, line)
