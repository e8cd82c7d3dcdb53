"""Watch each statement: count it, time it, notify the listeners and log the slow ones, without a value in any of it.

The code is optimised for the common case, without listeners: then a statement costs two readings of the clock, a
dictionary lookup and an append to a list; notes are counted many at once. What each step costs:
docs/decisions/0053-why-watching-a-statement-only-takes-notes.md.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from prefiq_db.call import Told
from prefiq_db.dialects.session import SessionState
from prefiq_db.events import StatementEvent, StatementFailed, StatementFinished, StatementStarted, StreamFinished
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.drafts import DraftOfFailed, DraftOfFinished, DraftOfStarted
from prefiq_db.insight.slow_log import SlowLog
from prefiq_db.insight.statement_budgets import NO_BUDGETS, note_in_budgets, open_budgets
from prefiq_db.insight.statistics import FOLD_AT, StatementEntry, StatementStatistics
from prefiq_db.insight.stream_note import StreamNote
from prefiq_db.insight.summary import Description, collapse_lists, describe
from prefiq_db.masking import MASK, describe_value, head_of, is_secret_key, mask_statement
from prefiq_db.memory import Memory
from prefiq_db.origin import application_line, readable
from prefiq_db.tags import NO_TAGS
from prefiq_db.translation.cleaning import drop_chain, forget
from prefiq_db.translation.judging import Judgement, find_judgement, judge

logger = logging.getLogger("prefiq_db.statements")

# Where a logger caches the results of isEnabledFor, cleared whenever any level changes: a lookup costs a quarter of
# the call. Without that cache we call it each time.
LEVELS: Final[Mapping[int, bool]] = getattr(logger, "_cache", {})
_DEBUG: Final = logging.DEBUG

# How many texts are remembered; new ones push old ones out, so ad-hoc texts cost no more than that.
_MOST_TEXTS: Final = 2000

_new: Final = object.__new__
_SHARED: Final = fields(StatementEvent)
# The names of binds are few, and each is met with every statement.
_is_secret_name: Final = lru_cache(1024)(is_secret_key)


class _Counted(Protocol):
    @property
    def rowcount(self) -> int: ...


R = TypeVar("R", bound=_Counted)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known about a text since it was first seen."""

    description: Description
    summary: str
    shown: str
    entry: StatementEntry
    #: the entry's own
    durations: list[float]
    rows: list[int]


class StatementObserver:
    """The observer that every engine gets."""

    def __init__(self, database: str, dialect: str, hooks: Hooks, *, masked: bool, slow_seconds: float) -> None:
        self.database = database
        self.dialect = dialect
        self.hooks = hooks
        self.masked = masked
        self.statistics = StatementStatistics()
        self.slow = SlowLog(database, slow_seconds, time.monotonic)
        self.slow_seconds = slow_seconds
        #: what is to be done before each statement, and after it; looked up once, when a listener or a budget comes
        self.acts_before = self._tells_started = self.tells_finished = self._budgeted = False
        hooks.on_change(self._look_up)
        self._memory: Memory[_Known] = Memory(_MOST_TEXTS)
        self._known = self._memory.kept

    def observe(
        self,
        send: Callable[..., None],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        batch_size: int,
        state: SessionState,
    ) -> None:
        try:
            known = self._known[statement]
        except KeyError:
            known = self._learn(statement, None if context is None else context.compiled)
        note = state.statement
        note.summary = known.summary
        if self.acts_before:
            self._before(known, parameters, context, batch_size, state)
        note.sent_at = started = perf_counter()
        try:
            send(cursor, statement, parameters, context)
        except BaseException as error:
            note.sent_at = 0.0
            self.note_failure(known, error, started, parameters, context, batch_size, state)
            raise
        self._note_end(known, started, cursor.rowcount, parameters, context, batch_size, state)

    async def observe_awaited(
        self,
        send: Callable[..., Coroutine[Any, Any, R]],
        connection: Any,
        statement: str,
        parameters: Any,
        context: Any,
        state: SessionState,
    ) -> R:
        """Await ``send(connection, statement, parameters)``, return the reply, and record what :meth:`observe` does."""
        known = self.look_up(statement, context.compiled)
        note = state.statement
        note.summary = known.summary
        if self.acts_before:
            self._before(known, parameters, context, 1, state)
        note.sent_at = started = perf_counter()
        try:
            reply = await send(connection, statement, parameters)
        except BaseException as error:
            note.sent_at = 0.0
            self.note_failure(known, error, started, parameters, context, 1, state)
            raise
        self._note_end(known, started, reply.rowcount, parameters, context, 1, state)
        return reply

    def _note_end(
        self,
        known: _Known,
        started: float,
        rows: int,
        parameters: Any,
        context: Any,
        batch_size: int,
        state: SessionState,
    ) -> None:
        note, checkout = state.statement, state.checkout
        duration = perf_counter() - started + note.spent
        note.sent_at = 0.0
        durations = known.durations
        durations.append(duration)
        if rows > 0:
            known.rows.append(rows)
        if checkout.retry_number:
            self._retried(known.entry)
        if len(durations) >= FOLD_AT:
            self._fold(known.entry)
        if duration >= self.slow_seconds:
            self._slow(known, duration, rows, state, None)
        if self.tells_finished:
            draft = self._fill(_new(DraftOfFinished), known, parameters, context, batch_size, state)
            draft.duration_seconds = duration
            draft.rows = rows
            draft.__class__ = StatementFinished
            self.hooks.emit(draft)
        try:
            debug = LEVELS[_DEBUG]
        except KeyError:
            debug = True
        if debug and logger.isEnabledFor(_DEBUG):
            self._log(known, duration, rows, state)
        checkout.wait_seconds = 0.0

    def stream_opened(self, context: Any, state: SessionState) -> StreamNote:
        known = self.look_up(context.statement, context.compiled)
        wanted = StreamFinished in self.hooks.wanted
        fields = self._stream_fields(known, context, state) if wanted else None
        return StreamNote(self.hooks, self.statistics, self.slow, known, fields, state)

    def expect_budgets(self) -> None:
        """Check for open budgets from now on."""
        self._budgeted = True
        self._look_up()

    def _look_up(self) -> None:
        wanted = self.hooks.wanted
        self._tells_started, self.tells_finished = StatementStarted in wanted, StatementFinished in wanted
        self.acts_before = self._budgeted or self._tells_started

    def _before(self, known: _Known, parameters: Any, context: Any, batch_size: int, state: SessionState) -> None:
        if self._budgeted and open_budgets.get() is not NO_BUDGETS:
            note_in_budgets(self, known.description.fingerprint, known.description.summary)
        if self._tells_started:
            draft = self._fill(_new(DraftOfStarted), known, parameters, context, batch_size, state)
            draft.__class__ = StatementStarted
            self.hooks.emit(draft)

    # --- counting --------------------------------------------------------------------------------

    def look_up(self, statement: str, compiled: Any) -> _Known:
        """Return what is known of *statement*, and where its time is noted."""
        return self._known.get(statement) or self._learn(statement, compiled)

    def note_more(self, known: _Known, duration: float, rows: int, state: SessionState) -> None:
        """Note a statement whose time was slow, or the last that may be noted uncounted."""
        if len(known.durations) >= FOLD_AT:
            self._fold(known.entry)
        if duration >= self.slow_seconds:
            self._slow(known, duration, rows, state, None)

    def _learn(self, statement: str, compiled: Any) -> _Known:
        # Each length of a list is another text, and all of them are one statement.
        has_lists = bool(getattr(compiled, "post_compile_params", None))
        head = head_of(compiled.string if has_lists else statement)
        known = None if head is statement else self._known.get(head)
        if known is not None:
            return known
        shown = statement
        if has_lists:
            statement, shown = collapse_lists(compiled, "?"), collapse_lists(compiled, "?, ...")
        description = describe(statement, compiled, self.dialect)
        text = mask_statement(shown, self.dialect, masked=self.masked)
        entry = self.statistics.entry(description, text)
        entry.line = application_line()
        known = _Known(description, description.summary, text, entry, entry.durations, entry.rows)
        return self._memory.keep(head, known, head, text)

    def _fold(self, entry: StatementEntry) -> None:
        """Count what was noted, and keep the source line of the current call."""
        entry.fold()
        entry.line = application_line()

    def _retried(self, entry: StatementEntry) -> None:
        with self.statistics.lock:
            entry.retries += 1

    def note_failure(
        self,
        known: _Known,
        error: BaseException,
        started: float,
        parameters: Any,
        context: Any,
        batch_size: int,
        state: SessionState,
    ) -> None:
        duration = perf_counter() - started + state.statement.spent
        judgement = self._judge(error, context, started)
        kind, code = judgement.kind, judgement.code
        known.durations.append(duration)
        with self.statistics.lock:
            self.statistics.error_count += 1
            self.statistics.errors[kind] += 1
            known.entry.errors += 1
            known.entry.retries += bool(state.checkout.retry_number)
        if duration >= self.slow.threshold_seconds:
            self._slow(known, duration, -1, state, kind.value)
        if self.hooks.wants(StatementFailed):
            draft = self._fill(_new(DraftOfFailed), known, parameters, context, batch_size, state)
            draft.duration_seconds = duration
            draft.kind = kind
            draft.code = code
            draft.__class__ = StatementFailed
            self.hooks.emit(draft)

    def _judge(self, error: BaseException, context: Any, started: float) -> Judgement:
        """Return the judgement that the caller's error will use, so that both agree."""
        judgement: Judgement
        kept = find_judgement(error)
        if kept is not None and kept.made_at < started:
            forget(error)  # an earlier statement raised it, too
        if context is None:
            judgement = judge(error, self.dialect)
        else:
            judgement = context.dialect.judge(error, context.root_connection._dbapi_connection)
        if judgement.interruption is None:
            drop_chain(error)  # frames and values hang on it, and it has told what it can
        return judgement

    # --- events ----------------------------------------------------------------------------------

    def _fill(
        self, draft: Any, known: _Known, parameters: Any, context: Any, batch_size: int, state: SessionState
    ) -> Any:
        """Set the fields that all events of a statement share, and return *draft*."""
        description = known.description
        call, checkout = state.statement.call, state.checkout
        draft.database = self.database
        draft.statement = known.shown
        draft.parameters = self._describe_parameters(parameters, context)
        draft.batch_size = batch_size
        draft.operation = description.operation
        draft.summary = description.summary
        draft.tables = description.tables
        draft.fingerprint = description.fingerprint
        draft.wait_seconds = checkout.wait_seconds
        draft.retry_number = checkout.retry_number
        draft.transaction_id = state.transaction.id
        draft.node = "" if context is None else context.dialect.node
        if call is None:
            draft.call_id, draft.tags, draft._origin = None, NO_TAGS, application_line()
        else:
            draft.call_id, draft.tags, draft._origin = call.id, call.tags, call.line or application_line()
        return draft

    def tell_finished(
        self, known: _Known, values: Mapping[str, Any] | None, duration: float, rows: int, told: Told | None
    ) -> None:
        """Notify listeners of a statement on the short way, which *told* is about."""
        description = known.description
        draft: Any = _new(DraftOfFinished)
        draft.database = self.database
        draft.statement = known.shown
        if values:
            show = describe_value if self.masked else repr
            draft.parameters = {name: MASK if _is_secret_name(name) else show(value) for name, value in values.items()}
        else:
            draft.parameters = {}
        draft.operation = description.operation
        draft.summary = description.summary
        draft.tables = description.tables
        draft.fingerprint = description.fingerprint
        draft.batch_size, draft.wait_seconds, draft.retry_number, draft.transaction_id = 1, 0.0, 0, None
        draft.node = ""  # what may go to a replica takes another way
        if told is None:
            draft.call_id, draft._origin, draft.tags = None, application_line(), NO_TAGS
        else:
            draft.call_id, line, draft.tags = told
            draft._origin = line or application_line()
        draft.duration_seconds = duration
        draft.rows = rows
        draft.__class__ = StatementFinished
        self.hooks.emit(draft)

    def _stream_fields(self, known: _Known, context: Any, state: SessionState) -> dict[str, Any]:
        """Return the same fields for the event at a stream's end."""
        draft = self._fill(_new(DraftOfStarted), known, None, context, 1, state)
        return {each.name: getattr(draft, each.name) for each in _SHARED}

    def _describe_parameters(self, parameters: Any, context: Any) -> Mapping[str, str]:
        if context is not None and context.compiled is not None and (of_rows := context.compiled_parameters):
            parameters = of_rows[0]
        if not parameters:
            return {}
        if type(parameters) is list:
            parameters = parameters[0]
        is_named = type(parameters) is dict or isinstance(parameters, Mapping)
        shown: dict[str, str] = {}
        for name, value in parameters.items() if is_named else enumerate(parameters, 1):
            key = str(name)
            if _is_secret_name(key):
                shown[key] = MASK
            else:
                shown[key] = describe_value(value) if self.masked else repr(value)
        return shown

    def _slow(self, known: _Known, duration: float, rows: int, state: SessionState, error_kind: str | None) -> None:
        with self.statistics.lock:
            self.statistics.slow_count += 1
        self.slow.note(
            statement=known.shown,
            summary=known.description.summary,
            fingerprint=known.description.fingerprint,
            duration_seconds=duration,
            wait_seconds=state.checkout.wait_seconds,
            rows=rows,
            retries=state.checkout.retry_number,
            transaction_id=state.transaction.id,
            line=application_line(),
            error_kind=error_kind,
            tags=NO_TAGS if state.statement.call is None else state.statement.call.tags,
        )

    def _log(self, known: _Known, duration: float, rows: int, state: SessionState) -> None:
        origin = readable(application_line())
        logger.debug(
            "%s on database %s: %.6f s, %d rows",
            known.description.summary or "statement",
            self.database,
            duration,
            rows,
            extra={
                "database": self.database,
                "summary": known.description.summary,
                "fingerprint": known.description.fingerprint,
                "duration_seconds": round(duration, 6),
                "rows": rows,
                "query_bytes": len(known.shown.encode()),
                "retries": state.checkout.retry_number,
                "transaction_id": state.transaction.id,
                "source": None if origin is None else str(origin),
            },
        )
