"""What the pytest plugin does for one test; the plugin itself (``prefiq_db_pytest``) imports this when it is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pytest

from prefiq_db.errors import StatementBudgetError, UsageError
from prefiq_db.events import Listener, StatementFailed, StatementFinished, StatementStarted
from prefiq_db.insight.statement_budgets import StatementBudget
from prefiq_db.origin import application_line
from prefiq_db.testing.isolation.isolated import AnyDatabase, TestDatabase
from prefiq_db.testing.isolation.place import Place

_MOST_SHOWN: Final = 50


class Record(Listener):
    """The statements that a test sent on one database.

    Attributes:
        budgets: what they count for, while the test itself runs.
    """

    def __init__(self) -> None:
        self.budgets: list[StatementBudget] = []
        self.count = 0
        self._last: deque[str] = deque(maxlen=_MOST_SHOWN)

    def statement_started(self, event: StatementStarted) -> None:
        for budget in self.budgets:
            budget.note(event.fingerprint, event.summary, application_line())

    def statement_finished(self, event: StatementFinished) -> None:
        rows = "" if event.rows < 0 else f", {event.rows} rows"
        self._note(event, f"{event.duration_seconds * 1000:.1f} ms{rows}")

    def statement_failed(self, event: StatementFailed) -> None:
        self._note(event, f"FAILED: {event.kind.value} (code {event.code})")

    def _note(self, event: StatementFinished | StatementFailed, what: str) -> None:
        self.count += 1
        given = ", ".join(f"{name}={shown}" for name, shown in event.parameters.items())
        many = f" x {event.batch_size}" if event.batch_size > 1 else ""
        self._last.append(f"{event.statement}{many}  [{given}]\n    {what}, at {event.origin}")

    def report(self) -> str:
        """Return the last statements, without values."""
        head = f"the last {len(self._last)} of {self.count}:\n" if self.count > len(self._last) else ""
        return head + "\n".join(self._last)


@contextmanager
def isolated(place: Place, records: list[Any], *, is_async: bool) -> Iterator[AnyDatabase]:
    """Give a test a database on which everything is undone; fail it if it left something behind all the same."""
    if any(isinstance(each, _Used) for each in records):
        raise UsageError("a test uses either db or async_db: their transactions don't see each other")
    test = place.isolated(is_async=is_async)
    records.append(_Used())
    problems: list[str] = []
    try:
        yield _recorded(test, records)
    finally:
        try:
            test.end()
        finally:
            changes = place.changes()  # whatever became of its end, the next test must not see this one's rows
        problems += _leaks(test)
        if changes:
            problems.append(
                "this test committed past its fixture, so it was not undone (another connection, another process, the "
                "driver's own commit(), or a statement that commits by itself):\n"
                + "\n".join(f"  {change}" for change in changes)
                + "\nuse the fixture db_committed (async: async_db_committed); the next test gets a clean database"
            )
    _raise(problems)


@contextmanager
def committed(place: Place, url: str, records: list[Any], *, is_async: bool) -> Iterator[AnyDatabase]:
    """Give a test a database on a copy of its own, where everything is as in production."""
    test = place.committing(url, is_async=is_async)
    problems: list[str] = []
    try:
        yield _recorded(test, records)
    finally:
        test.end()
        problems += _leaks(test)
    _raise(problems)


class _Used:
    """Stands among a test's records for its isolated database."""


def _recorded(test: TestDatabase, records: list[Any]) -> AnyDatabase:
    record = Record()
    test.db.hooks.add(record)
    records.append(record)
    return test.db


def _leaks(test: TestDatabase) -> list[str]:
    return [f"this test never gave a connection back:\n{test.leaked}"] if test.leaked else []


def _raise(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@contextmanager
def within_budgets(item: Any, records: list[Any]) -> Iterator[None]:
    """Count the statements of the test itself, and fail it as its markers say."""
    limits = _limits(item)
    mine = [record for record in records if isinstance(record, Record)]
    if limits and not mine:
        raise UsageError("the markers max_statements and no_n_plus_one count the statements of db: use that fixture")
    budgets = [StatementBudget(item, **limit) for limit in limits]
    for record in mine:
        record.budgets = budgets
    with ExitStack() as stack:
        for record in mine:
            stack.callback(setattr, record, "budgets", [])
        yield
    failure = ""
    try:
        for budget in budgets:
            budget.check()
    except StatementBudgetError as error:
        failure = str(error)
    if failure:
        pytest.fail(failure, pytrace=False)


def _limits(item: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for marker, name, default in (("max_statements", "max_statements", None), ("no_n_plus_one", "max_repeats", 2)):
        mark = item.get_closest_marker(marker)
        if mark is not None:
            limit = mark.args[0] if mark.args else mark.kwargs.get(name, default)
            if limit is None:
                raise UsageError(f"the marker {marker} takes a whole number: @pytest.mark.{marker}(3)")
            found.append({"max_statements": None, "max_repeats": None, name: limit})
    return found


def statements_of(records: list[Any]) -> str:
    """Return what a failing test's report shows, or ``""``."""
    return "\n".join(record.report() for record in records if isinstance(record, Record) and record.count)
