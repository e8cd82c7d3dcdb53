"""Watch each command: count it, time it, notify the listeners and log the slow ones, without a value in any of it.

It counts by the same parts as the SQL databases' observer, :mod:`prefiq_db.insight.statement_observer`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, TypeAlias

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

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
from prefiq_db.mongo.running_calls import Attempt, running
from prefiq_db.origin import application_line, readable
from prefiq_db.tags import NO_TAGS
from prefiq_db.translation.classify import classify_error
from prefiq_db.translation.driver_reports import codeless_kind

logger = logging.getLogger("prefiq_db.statements")

# Commands of db.client that are being answered: those whose end nobody hears of must not fill the memory.
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
    summary: str
    shown: str
    entry: StatementEntry


#: A command that was sent and is not answered yet: what is known of it, the attempt that sent it, the number of its
#: repetition, its wait for a connection, and the fields of its events if anybody listens. A tuple, for it is made for
#: each command, and mostly nobody looks into it.
_Pending: TypeAlias = tuple[_Known, Attempt | None, int, float, dict[str, Any] | None]


class CommandObserver(CommandListener):
    """The observer of one database's commands, as PyMongo's listener of them."""

    def __init__(self, database: str, dialect: str, hooks: Hooks, *, masked: bool, slow_seconds: float) -> None:
        self.database = database
        self.dialect = dialect
        self.hooks = hooks
        self.masked = masked
        self.statistics = StatementStatistics()
        self.slow = SlowLog(database, slow_seconds, time.monotonic)
        self._budgeted = False
        self._memory: Memory[_Known] = Memory(_MOST_TEXTS)
        self._plain: dict[str, dict[Any, _Known]] = {name: {} for name in _PLAIN}
        self._pending: dict[int, _Pending] = {}

    def expect_budgets(self) -> None:
        """Check for open budgets from now on."""
        self._budgeted = True

    # --- told by PyMongo ---------------------------------------------------------------------------

    def started(self, event: CommandStartedEvent) -> None:
        """Note that a command is sent."""
        command = event.command
        name = next(iter(command), "")
        plain = self._plain.get(name)
        known = None if plain is None else plain.get(command[name])
        if known is None:
            if not name or name.lower() in SECRET_COMMANDS:  # PyMongo empties a secret one
                return
            known = self._find(name, command)
        note, retries, wait, fields = running.get(), 0, 0.0, None
        if note is not None:
            retries = note.retry_number
            if note.sent and name not in _GOES_ON:
                retries += note.sent  # PyMongo repeats a write by itself, under the number that the server knows it by
            note.sent += 1
            state = note.state
            if state is not None:
                checkout, statement = state.checkout, state.statement
                wait, checkout.wait_seconds = checkout.wait_seconds, 0.0
                statement.call, statement.summary, statement.sent_at = note, known.summary, perf_counter()
        if retries:
            with self.statistics.lock:
                known.entry.retries += 1
        if self._budgeted and open_budgets.get() is not NO_BUDGETS:
            note_in_budgets(self, known.description.fingerprint, known.summary)
        wanted = self.hooks.wanted
        if wanted and not wanted.isdisjoint(_STATEMENT_EVENTS):
            fields = self._event_fields(known, note, retries, wait, command)
            self._emit(StatementStarted(**fields), note)
        if note is not None:
            note.pending = (known, note, retries, wait, fields)
            return
        if len(self._pending) >= _MOST_PENDING:
            self._pending.pop(next(iter(self._pending)), None)  # the oldest: nobody will hear of its end
        self._pending[event.request_id] = (known, note, retries, wait, fields)

    def _emit(self, event: object, note: Attempt | None) -> None:
        """Notify the listeners, outside of the attempt: a task that one of them starts is no part of it."""
        running.set(None)
        try:
            self.hooks.emit(event)
        finally:
            running.set(note)

    def _find(self, name: str, command: Mapping[str, Any]) -> _Known:
        text = show_command(name, command)
        known = self._memory.kept.get(text) or self._learn(name, command, text)
        if name in _PLAIN and known.description.tables:
            found = self._plain[name]
            if len(found) >= _MOST_TEXTS:
                found.clear()  # collections whose names are made up must not fill the memory
            found[command[name]] = known
        return known

    def _learn(self, name: str, command: Mapping[str, Any], text: str) -> _Known:
        description = describe_command(name, command, text)
        entry = self.statistics.entry(description, text)
        entry.line = application_line()
        return self._memory.keep(text, _Known(description, description.summary, text, entry), text)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Note the reply to a command. One that lists failed writes counts as failed."""
        attempt = running.get()
        made: _Pending | None = None if attempt is None else attempt.pending
        if attempt is None or made is None:
            made = self._take(event)
            if made is None:
                return
        else:  # as _take() does it: most commands come here
            attempt.pending = None
            attempt.done += 1
            if attempt.state is not None:
                attempt.state.statement.sent_at = 0.0
        duration, reply = event.duration_micros / 1e6, event.reply
        if "writeErrors" in reply:
            failed = reply["writeErrors"]
            if isinstance(failed, list) and failed:
                self._note_failure(made, duration, *self._kind_of(failed[0].get("code"), "WriteError"))
                return
        known, note, _, _, fields = made
        entry, cursor = known.entry, reply.get("cursor")
        if type(cursor) is dict and "firstBatch" in cursor:  # most reads, without a further call
            rows = len(cursor["firstBatch"])
        else:
            rows = rows_of(reply)
        entry.durations.append(duration)
        if rows > 0:
            entry.rows.append(rows)
        if len(entry.durations) >= FOLD_AT:
            entry.fold()
            entry.line = application_line()
        if duration >= self.slow.threshold_seconds:
            self._note_slow(made, duration, rows, None)
        if fields is not None and StatementFinished in self.hooks.wanted:
            self._emit(StatementFinished(**fields, duration_seconds=duration, rows=rows), note)
        if logger.isEnabledFor(logging.DEBUG):
            self._log(made, duration, rows)

    def failed(self, event: CommandFailedEvent) -> None:
        """Note that a command failed."""
        made = self._take(event)
        if made is not None:
            failure: Mapping[str, Any] = event.failure
            kind, code = self._kind_of(failure.get("code"), str(failure.get("errtype", "")))
            self._note_failure(made, event.duration_micros / 1e6, kind, code)

    def _take(self, event: CommandSucceededEvent | CommandFailedEvent) -> _Pending | None:
        note = running.get()
        if note is None or note.pending is None:
            return self._pending.pop(event.request_id, None)
        made: _Pending = note.pending
        note.pending = None
        if note.state is not None:
            note.state.statement.sent_at = 0.0
        return made

    def _kind_of(self, code: Any, driver_class: str) -> tuple[ErrorKind, int | None]:
        if isinstance(code, int):
            return classify_error(self.dialect, code).kind, code
        return codeless_kind("pymongo", driver_class), None

    # --- what it becomes ---------------------------------------------------------------------------

    def _note_failure(self, made: _Pending, duration: float, kind: ErrorKind, code: int | None) -> None:
        known, note, _, _, fields = made
        known.entry.durations.append(duration)
        with self.statistics.lock:
            self.statistics.error_count += 1
            self.statistics.errors[kind] += 1
            known.entry.errors += 1
        if duration >= self.slow.threshold_seconds:
            self._note_slow(made, duration, -1, kind.value)
        if fields is not None and StatementFailed in self.hooks.wanted:
            self._emit(StatementFailed(**fields, duration_seconds=duration, kind=kind, code=code), note)

    def _event_fields(
        self, known: _Known, note: Attempt | None, retries: int, wait: float, command: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "database": self.database,
            "statement": known.shown,
            "parameters": describe_parts(command),
            "batch_size": batch_size(command),
            "operation": known.description.operation,
            "summary": known.summary,
            "tables": known.description.tables,
            "fingerprint": known.description.fingerprint,
            "wait_seconds": wait,
            "retry_number": retries,
            "call_id": None if note is None else note.id,
            "transaction_id": None if note is None else note.transaction_id,
            "origin": readable(application_line()),
            "tags": _tags_of(note),
        }

    def _note_slow(self, made: _Pending, duration: float, rows: int, error_kind: str | None) -> None:
        known, note, retries, wait, _ = made
        with self.statistics.lock:
            self.statistics.slow_count += 1
        self.slow.note(
            statement=known.shown,
            summary=known.summary,
            fingerprint=known.description.fingerprint,
            duration_seconds=duration,
            wait_seconds=wait,
            rows=rows,
            retries=retries,
            transaction_id=None if note is None else note.transaction_id,
            line=application_line(),
            error_kind=error_kind,
            tags=_tags_of(note),
        )

    def _log(self, made: _Pending, duration: float, rows: int) -> None:
        known, note, retries, _, _ = made
        origin = readable(application_line())
        logger.debug(
            "%s on database %s: %.6f s, %d rows",
            known.summary,
            self.database,
            duration,
            rows,
            extra={
                "database": self.database,
                "summary": known.summary,
                "fingerprint": known.description.fingerprint,
                "duration_seconds": round(duration, 6),
                "rows": rows,
                "query_bytes": len(known.shown.encode()),
                "retries": retries,
                "transaction_id": None if note is None else note.transaction_id,
                "source": None if origin is None else str(origin),
            },
        )


def _tags_of(note: Attempt | None) -> Mapping[str, str]:
    return NO_TAGS if note is None else note.tags


_STATEMENT_EVENTS: Final[frozenset[type]] = frozenset({StatementStarted, StatementFinished, StatementFailed})
