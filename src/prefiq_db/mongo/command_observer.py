"""Watch each command: count it, time it, notify the listeners and log the slow ones, without a value in any of it.

It counts by the same parts as the SQL databases' observer, :mod:`prefiq_db.insight.statement_observer`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from prefiq_db.call import Call
from prefiq_db.errors import ErrorKind
from prefiq_db.events import StatementFailed, StatementFinished, StatementStarted
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.slow_log import SlowLog
from prefiq_db.insight.statement_budgets import NO_BUDGETS, note_in_budgets, open_budgets
from prefiq_db.insight.statistics import FOLD_AT, StatementEntry, StatementStatistics
from prefiq_db.insight.summary import Description
from prefiq_db.mongo.command_words import batch_size, describe_command, describe_parts, rows_of, show_command
from prefiq_db.mongo.running_calls import Note, running
from prefiq_db.origin import Line, application_line, readable
from prefiq_db.tags import NO_TAGS
from prefiq_db.translation.classify import classify_error
from prefiq_db.translation.driver_reports import codeless_kind

logger = logging.getLogger("prefiq_db.statements")

# Commands that are being answered. A listener that never hears of an end must not make the table grow without bound.
_MOST_PENDING: Final = 10_000


@dataclass(slots=True)
class _Pending:
    """A command that was sent and is not answered yet."""

    description: Description
    shown: str
    entry: StatementEntry
    fields: dict[str, Any] | None
    line: Line | None
    retry_number: int
    wait_seconds: float
    transaction_id: int | None
    tags: Mapping[str, str]
    started: float


class CommandObserver:
    """The observer of one database's commands."""

    def __init__(self, database: str, dialect: str, hooks: Hooks, *, masked: bool, slow_seconds: float) -> None:
        self.database = database
        self.dialect = dialect
        self.hooks = hooks
        self.masked = masked
        self.statistics = StatementStatistics()
        self.slow = SlowLog(database, slow_seconds, time.monotonic)
        self._budgeted = False
        self._pending: dict[int, _Pending] = {}

    def expect_budgets(self) -> None:
        """Check for open budgets from now on."""
        self._budgeted = True

    # --- told by PyMongo ---------------------------------------------------------------------------

    def started(self, name: str, command: Mapping[str, Any], request: int) -> None:
        """Note that a command is sent."""
        description = describe_command(name, command)
        shown = show_command(description.summary, command)
        entry = self.statistics.entry(description, shown)
        line = application_line()
        entry.line = line
        note = running.get()
        made = self._make_pending(note, description, shown, entry, line)
        if note is not None:
            self._mark_sent(note, description)
        if made.retry_number:
            with self.statistics.lock:
                entry.retries += 1
        if self._budgeted and open_budgets.get() is not NO_BUDGETS:
            note_in_budgets(self, description.fingerprint, description.summary)
        if not self.hooks.wanted.isdisjoint(_STATEMENT_EVENTS):
            made.fields = self._event_fields(made, command, None if note is None else note.call)
            self.hooks.emit(StatementStarted(**made.fields))
        if len(self._pending) < _MOST_PENDING:
            self._pending[request] = made

    def _make_pending(
        self, note: Note | None, description: Description, shown: str, entry: StatementEntry, line: Line | None
    ) -> _Pending:
        state = None if note is None else note.state
        wait, retries = 0.0, 0
        if state is not None:
            wait, state.checkout.wait_seconds = state.checkout.wait_seconds, 0.0
        if note is not None:
            # PyMongo repeats a write by itself, under the number that the server knows it by.
            retries = note.retry_number + (note.sent if description.operation not in ("getMore", "killCursors") else 0)
        call = None if note is None else note.call
        return _Pending(
            description,
            shown,
            entry,
            None,
            line,
            retries,
            wait,
            None if note is None else note.transaction_id,
            NO_TAGS if call is None else call.tags,
            perf_counter(),
        )

    def _mark_sent(self, note: Note, description: Description) -> None:
        note.sent += 1
        if note.state is not None:
            statement = note.state.statement
            statement.call, statement.summary, statement.sent_at = note.call, description.summary, perf_counter()

    def succeeded(self, request: int, duration: float, reply: Mapping[str, Any]) -> None:
        """Note the reply to a command. One that lists failed writes counts as failed."""
        made = self._take(request)
        if made is None:
            return
        failed = reply.get("writeErrors")
        if isinstance(failed, list) and failed:
            code = failed[0].get("code")
            self._note_failure(made, duration, *self._kind_of(code, "WriteError"))
            return
        rows = rows_of(reply)
        made.entry.durations.append(duration)
        if rows > 0:
            made.entry.rows.append(rows)
        if len(made.entry.durations) >= FOLD_AT:
            made.entry.fold()
        if duration >= self.slow.threshold_seconds:
            self._note_slow(made, duration, rows, None)
        if made.fields is not None and StatementFinished in self.hooks.wanted:
            self.hooks.emit(StatementFinished(**made.fields, duration_seconds=duration, rows=rows))
        if logger.isEnabledFor(logging.DEBUG):
            self._log(made, duration, rows)

    def failed(self, request: int, duration: float, failure: Mapping[str, Any]) -> None:
        """Note that a command failed."""
        made = self._take(request)
        if made is not None:
            self._note_failure(made, duration, *self._kind_of(failure.get("code"), str(failure.get("errtype", ""))))

    def _take(self, request: int) -> _Pending | None:
        note = running.get()
        if note is not None and note.state is not None:
            note.state.statement.sent_at = 0.0
        return self._pending.pop(request, None)

    def _kind_of(self, code: Any, driver_class: str) -> tuple[ErrorKind, int | None]:
        if isinstance(code, int):
            return classify_error(self.dialect, code).kind, code
        return codeless_kind("pymongo", driver_class), None

    # --- what it becomes ---------------------------------------------------------------------------

    def _note_failure(self, made: _Pending, duration: float, kind: ErrorKind, code: int | None) -> None:
        made.entry.durations.append(duration)
        with self.statistics.lock:
            self.statistics.error_count += 1
            self.statistics.errors[kind] += 1
            made.entry.errors += 1
        if duration >= self.slow.threshold_seconds:
            self._note_slow(made, duration, -1, kind.value)
        if made.fields is not None and StatementFailed in self.hooks.wanted:
            self.hooks.emit(StatementFailed(**made.fields, duration_seconds=duration, kind=kind, code=code))

    def _event_fields(self, made: _Pending, command: Mapping[str, Any], call: Call | None) -> dict[str, Any]:
        return {
            "database": self.database,
            "statement": made.shown,
            "parameters": describe_parts(command),
            "batch_size": batch_size(command),
            "operation": made.description.operation,
            "summary": made.description.summary,
            "tables": made.description.tables,
            "fingerprint": made.description.fingerprint,
            "wait_seconds": made.wait_seconds,
            "retry_number": made.retry_number,
            "call_id": None if call is None else call.id,
            "transaction_id": made.transaction_id,
            "origin": readable(made.line),
            "tags": made.tags,
        }

    def _note_slow(self, made: _Pending, duration: float, rows: int, error_kind: str | None) -> None:
        with self.statistics.lock:
            self.statistics.slow_count += 1
        self.slow.note(
            statement=made.shown,
            summary=made.description.summary,
            fingerprint=made.description.fingerprint,
            duration_seconds=duration,
            wait_seconds=made.wait_seconds,
            rows=rows,
            retries=made.retry_number,
            transaction_id=made.transaction_id,
            line=made.line,
            error_kind=error_kind,
            tags=made.tags,
        )

    def _log(self, made: _Pending, duration: float, rows: int) -> None:
        origin = readable(made.line)
        logger.debug(
            "%s on database %s: %.6f s, %d rows",
            made.description.summary,
            self.database,
            duration,
            rows,
            extra={
                "database": self.database,
                "summary": made.description.summary,
                "fingerprint": made.description.fingerprint,
                "duration_seconds": round(duration, 6),
                "rows": rows,
                "query_bytes": len(made.shown.encode()),
                "retries": made.retry_number,
                "transaction_id": made.transaction_id,
                "source": None if origin is None else str(origin),
            },
        )


_STATEMENT_EVENTS: Final[frozenset[type]] = frozenset({StatementStarted, StatementFinished, StatementFailed})
