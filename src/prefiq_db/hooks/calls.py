"""Report logical calls to listeners: the beginning, and the end after all attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from prefiq_db.call import Call
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.events import CallFinished, CallStarted
from prefiq_db.hooks.registry import Hooks
from prefiq_db.origin import application_line, readable

T = TypeVar("T")

#: calls are reported while there is a listener for one of these
CALL_EVENTS: Final[frozenset[type]] = frozenset({CallStarted, CallFinished})

_Failed = tuple[ErrorKind | None, str | int | None]


def tell_call(hooks: Hooks, database: str, call: Call, work: Callable[[Call], T]) -> T:
    """Return the result of *work* for *call*; notify the listeners of the beginning and the end."""
    _tell_start(hooks, database, call)
    started = time.perf_counter()
    failed: _Failed = (None, None)
    try:
        return work(call)
    except BaseException as error:
        failed = _judge(error)
        raise
    finally:
        _tell_end(hooks, database, call, time.perf_counter() - started, failed)


def tell_refused_call(hooks: Hooks, database: str, call: Call, error: BaseException) -> None:
    """Notify the listeners of a call that failed with *error* before anything of it ran."""
    _tell_start(hooks, database, call)
    _tell_end(hooks, database, call, time.monotonic() - call.started, _judge(error))


def _judge(error: BaseException) -> _Failed:
    if isinstance(error, PrefiqDbError):
        return error.kind, error.code
    return (ErrorKind.UNKNOWN if isinstance(error, Exception) else ErrorKind.CANCELLED), None


def _tell_start(hooks: Hooks, database: str, call: Call) -> None:
    hooks.emit(CallStarted(database, call.id, call.verb, readable(application_line()), call.tags))


def _tell_end(hooks: Hooks, database: str, call: Call, duration_seconds: float, failed: _Failed) -> None:
    hooks.emit(CallFinished(database, call.id, call.verb, duration_seconds, max(1, call.attempts), *failed))
