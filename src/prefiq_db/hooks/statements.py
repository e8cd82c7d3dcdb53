"""Watch each statement: count it, time it and tell the listeners, without a value in anything that is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from prefiq_db.dialects.translate import translate
from prefiq_db.errors import ErrorKind
from prefiq_db.events import StatementFailed, StatementFinished, StatementStarted
from prefiq_db.hooks.registry import Hooks
from prefiq_db.masking import MASK, describe_value, is_secret_key, mask_literals


class StatementObserver:
    """The observer that every engine gets; an event is made only when somebody listens."""

    def __init__(self, database: str, dialect: str, hooks: Hooks, *, masked: bool) -> None:
        self.database = database
        self.dialect = dialect
        self.hooks = hooks
        self.masked = masked
        self.statement_count = 0
        self.error_count = 0
        self._lock = threading.Lock()

    def observe(
        self,
        send: Callable[..., None],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        batch_size: int,
    ) -> None:
        with self._lock:
            self.statement_count += 1
        hooks = self.hooks
        if hooks.wants(StatementStarted):
            hooks.emit(StatementStarted(self.database, *self._shown(statement, parameters, context), batch_size))
        started = time.perf_counter()
        try:
            send(cursor, statement, parameters, context)
        except BaseException as error:
            self._failed(error, time.perf_counter() - started, statement, parameters, context, batch_size)
            raise
        if hooks.wants(StatementFinished):
            duration = time.perf_counter() - started
            shown = self._shown(statement, parameters, context)
            hooks.emit(StatementFinished(self.database, *shown, duration, cursor.rowcount, batch_size))

    def _failed(
        self, error: BaseException, duration: float, statement: str, parameters: Any, context: Any, batch_size: int
    ) -> None:
        with self._lock:
            self.error_count += 1
        if self.hooks.wants(StatementFailed):
            kind, code = self._what_failed(error)
            shown = self._shown(statement, parameters, context)
            self.hooks.emit(StatementFailed(self.database, *shown, duration, kind, code, batch_size))

    def _what_failed(self, error: BaseException) -> tuple[ErrorKind, str | int | None]:
        if not isinstance(error, Exception):  # the task was cancelled, or the process interrupted
            return ErrorKind.CANCELLED, None
        found = translate(error, dialect=self.dialect, database=self.database)
        return found.kind, found.code

    def _shown(self, statement: str, parameters: Any, context: Any) -> tuple[str, Mapping[str, str]]:
        if context is not None and context.compiled is not None and context.compiled_parameters:
            parameters = context.compiled_parameters[0]
        return (_masked(statement) if self.masked else statement), self._shown_parameters(parameters)

    def _shown_parameters(self, parameters: Any) -> Mapping[str, str]:
        if not parameters:
            return {}
        if isinstance(parameters, list):
            parameters = parameters[0]
        named = parameters.items() if isinstance(parameters, Mapping) else enumerate(parameters, 1)
        return {str(name): self._shown_value(str(name), value) for name, value in named}

    def _shown_value(self, name: str, value: object) -> str:
        if is_secret_key(name):
            return MASK
        return describe_value(value) if self.masked else repr(value)


_masked = lru_cache(maxsize=1024)(mask_literals)
