"""Tell of logical calls: that one began, and how it ended after all its attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from prefiq_db.calls import Call
from prefiq_db.errors import ErrorKind, PrefiqDbError
from prefiq_db.events import CallFinished, CallStarted
from prefiq_db.hooks.registry import Hooks
from prefiq_db.origin import application_line, readable

T = TypeVar("T")


def tells_calls(hooks: Hooks) -> bool:
    """Return whether anybody listens to calls."""
    return CallStarted in hooks.wanted or CallFinished in hooks.wanted


def told(hooks: Hooks, database: str, call: Call, work: Callable[[], T]) -> T:
    """Return what *work* returns; tell the listeners of calls, if there are any."""
    if not tells_calls(hooks):
        return work()
    hooks.emit(CallStarted(database, call.id, call.verb, readable(application_line()), call.tags))
    started = time.perf_counter()
    kind: ErrorKind | None = None
    code: Any = None
    try:
        return work()
    except PrefiqDbError as error:
        kind, code = error.kind, error.code
        raise
    except BaseException as error:
        kind = ErrorKind.CANCELLED if not isinstance(error, Exception) else ErrorKind.UNKNOWN
        raise
    finally:
        duration = time.perf_counter() - started
        hooks.emit(CallFinished(database, call.id, call.verb, duration, max(1, call.attempts), kind, code))
