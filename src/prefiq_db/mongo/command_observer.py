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
from prefiq_db.memory import Memory
from prefiq_db.mongo.command_words import (
    SECRET_COMMANDS,
    batch_size,
    describe_command,
    describe_parts,
    rows_of,
    show_command,
)
from prefiq_db.mongo.running_calls import Note, running
from prefiq_db.origin import application_line, readable
from prefiq_db.tags import NO_TAGS
from prefiq_db.translation.classify import classify_error
from prefiq_db.translation.driver_reports import codeless_kind

logger = logging.getLogger("prefiq_db.statements")

# Commands that are being answered. A listener that never hears of an end must not make the table grow without bound.
_MOST_PENDING: Final = 10_000
# How many texts are remembered; new ones push old ones out.
_MOST_TEXTS: Final = 2000
# Further commands of one operation, not its repetition.
_GOES_ON: Final = frozenset({"getMore", "killCursors"})
# What these are is said by their name and their collection alone.
_PLAIN: Final = frozenset({"find", "insert", "delete", "distinct", "count"})


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known about a command's text since it was first seen."""

    description: Description
    shown: str
    entry: StatementEntry


@dataclass(slots=True)
class _Pending:
    """A command that was sent and is not answered yet."""

    known: _Known
    retry_number: int
    wait_seconds: float
    transaction_id: int | None
    tags: Mapping[str, str]
    fields: dict[str, Any] | None = None


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
        self._memory: Memory[_Known] = Memory(_MOST_TEXTS)
        self._plain: dict[tuple[str, Any], _Known] = {}
        self._pending: dict[int, _Pending] = {}

    def expect_budgets(self) -> None:
        """Check for open budgets from now on."""
        self._budgeted = True

    # --- told by PyMongo ---------------------------------------------------------------------------

    def started(self, name: str, command: Mapping[str, Any], request: int) -> None:
        """Note that a command is sent."""
        known = self._plain.get((name, command[name])) if name in _PLAIN else None
        if known is None:
            if name.lower() in SECRET_COMMANDS:
                return
            known = self._find(name, command)
        note = running.get()
        made = self._make_pending(note, known)
        if note is not None:
            self._mark_sent(note, known.description)
        if made.retry_number:
            with self.statistics.lock:
                known.entry.retries += 1
        if self._budgeted and open_budgets.get() is not NO_BUDGETS:
            note_in_budgets(self, known.description.fingerprint, known.description.summary)
        if not self.hooks.wanted.isdisjoint(_STATEMENT_EVENTS):
            made.fields = self._event_fields(made, command, None if note is None else note.call)
            self.hooks.emit(StatementStarted(**made.fields))
        if len(self._pending) < _MOST_PENDING:
            self._pending[request] = made

    def _find(self, name: str, command: Mapping[str, Any]) -> _Known:
        text = show_command(name, command)
        known = self._memory.kept.get(text) or self._learn(name, command, text)
        if name in _PLAIN and known.description.tables:
            if len(self._plain) >= _MOST_TEXTS:
                self._plain.clear()  # collections whose names are made up must not fill the memory
            self._plain[name, command[name]] = known
        return known

    def _learn(self, name: str, command: Mapping[str, Any], text: str) -> _Known:
        description = describe_command(name, command, text)
        entry = self.statistics.entry(description, text)
        entry.line = application_line()
        return self._memory.keep(text, _Known(description, text, entry), text)

    def _make_pending(self, note: Note | None, known: _Known) -> _Pending:
        if note is None:
            return _Pending(known, 0, 0.0, None, NO_TAGS)
        wait, retries = 0.0, note.retry_number
        if note.state is not None:
            checkout = note.state.checkout
            wait, checkout.wait_seconds = checkout.wait_seconds, 0.0
        if note.sent and known.description.operation not in _GOES_ON:
            retries += note.sent  # PyMongo repeats a write by itself, under the number that the server knows it by
        tags = NO_TAGS if note.call is None else note.call.tags
        return _Pending(known, retries, wait, note.transaction_id, tags)

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
        entry = made.known.entry
        entry.durations.append(duration)
        if rows > 0:
            entry.rows.append(rows)
        if len(entry.durations) >= FOLD_AT:
            entry.fold()
            entry.line = application_line()
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
        made.known.entry.durations.append(duration)
        with self.statistics.lock:
            self.statistics.error_count += 1
            self.statistics.errors[kind] += 1
            made.known.entry.errors += 1
        if duration >= self.slow.threshold_seconds:
            self._note_slow(made, duration, -1, kind.value)
        if made.fields is not None and StatementFailed in self.hooks.wanted:
            self.hooks.emit(StatementFailed(**made.fields, duration_seconds=duration, kind=kind, code=code))

    def _event_fields(self, made: _Pending, command: Mapping[str, Any], call: Call | None) -> dict[str, Any]:
        return {
            "database": self.database,
            "statement": made.known.shown,
            "parameters": describe_parts(command),
            "batch_size": batch_size(command),
            "operation": made.known.description.operation,
            "summary": made.known.description.summary,
            "tables": made.known.description.tables,
            "fingerprint": made.known.description.fingerprint,
            "wait_seconds": made.wait_seconds,
            "retry_number": made.retry_number,
            "call_id": None if call is None else call.id,
            "transaction_id": made.transaction_id,
            "origin": readable(application_line()),
            "tags": made.tags,
        }

    def _note_slow(self, made: _Pending, duration: float, rows: int, error_kind: str | None) -> None:
        with self.statistics.lock:
            self.statistics.slow_count += 1
        self.slow.note(
            statement=made.known.shown,
            summary=made.known.description.summary,
            fingerprint=made.known.description.fingerprint,
            duration_seconds=duration,
            wait_seconds=made.wait_seconds,
            rows=rows,
            retries=made.retry_number,
            transaction_id=made.transaction_id,
            line=application_line(),
            error_kind=error_kind,
            tags=made.tags,
        )

    def _log(self, made: _Pending, duration: float, rows: int) -> None:
        origin = readable(application_line())
        logger.debug(
            "%s on database %s: %.6f s, %d rows",
            made.known.description.summary,
            self.database,
            duration,
            rows,
            extra={
                "database": self.database,
                "summary": made.known.description.summary,
                "fingerprint": made.known.description.fingerprint,
                "duration_seconds": round(duration, 6),
                "rows": rows,
                "query_bytes": len(made.known.shown.encode()),
                "retries": made.retry_number,
                "transaction_id": made.transaction_id,
                "source": None if origin is None else str(origin),
            },
        )


_STATEMENT_EVENTS: Final[frozenset[type]] = frozenset({StatementStarted, StatementFinished, StatementFailed})
