"""Report logical calls to listeners: the beginning, and the end after all attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from prefiq_db.call import Call
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.events import CallFinished, CallStarted
from prefiq_db.hooks.registry import Hooks
from prefiq_db.origin import application_line, readable

T = TypeVar("T")

#: calls are reported while there is a listener for one of these
CALL_EVENTS: Final[frozenset[type]] = frozenset({CallStarted, CallFinished})

Failed = tuple[ErrorKind | None, str | int | None]

SUCCEEDED: Final[Failed] = (None, None)


def tell_call(hooks: Hooks, database: str, call: Call, work: Callable[[Call], T]) -> T:
    """Return the result of *work* for *call*; notify the listeners of the beginning and the end."""
    with Telling(hooks, database, call):
        return work(call)


class Telling:
    """Notifies the listeners when *call* begins, and when it has ended, after all of its attempts."""

    __slots__ = ("_call", "_database", "_hooks", "_started")

    def __init__(self, hooks: Hooks, database: str, call: Call) -> None:
        self._hooks, self._database, self._call = hooks, database, call
        self._started = 0.0

    def __enter__(self) -> None:
        tell_start(self._hooks, self._database, self._call)
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failed = SUCCEEDED if error is None else judged(error)
        tell_end(self._hooks, self._database, self._call, time.perf_counter() - self._started, failed)


def tell_refused_call(hooks: Hooks, database: str, call: Call, error: BaseException) -> None:
    """Notify the listeners of a call that failed with *error* before anything of it ran."""
    tell_start(hooks, database, call)
    tell_end(hooks, database, call, time.monotonic() - call.started, judged(error))


def judged(error: BaseException) -> Failed:
    """Return the kind and code of *error*, as :func:`tell_end` takes them."""
    if isinstance(error, PrefiqDbError):
        return error.kind, error.code
    return (ErrorKind.UNKNOWN if isinstance(error, Exception) else ErrorKind.CANCELLED), None


def tell_start(hooks: Hooks, database: str, call: Call) -> None:
    """Notify the listeners that *call* begins."""
    hooks.emit(CallStarted(database, call.id, call.verb, readable(call.line or application_line()), call.tags))


def tell_end(hooks: Hooks, database: str, call: Call, duration_seconds: float, failed: Failed = SUCCEEDED) -> None:
    """Notify the listeners that *call* ended, after all of its attempts."""
    hooks.emit(CallFinished(database, call.id, call.verb, duration_seconds, max(1, call.attempts), *failed))
