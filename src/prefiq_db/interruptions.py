"""Distinguish interruptions (a signal, a time limit, a cancellation) from errors of a driver or SQLAlchemy.

An interruption is raised unchanged, and leaves the state of the connection's protocol unknown. An error is a reply, and
is translated.
"""

from __future__ import annotations

import signal
import sys
from types import CodeType, TracebackType
from typing import Any, Final

from prefiq_db.errors import PrefiqDbError

# Packages whose exceptions are always errors, whatever raised them.
_DRIVERS: Final = {
    "psycopg",
    "psycopg_pool",
    "pymysql",
    "asyncmy",
    "aiosqlite",
    "sqlite3",
    "_sqlite3",
    "pymongo",
    "bson",
}
_REPORTERS: Final = frozenset({"sqlalchemy", "prefiq_db", *_DRIVERS})
# Packages in whose code an exception of a foreign class can only be an interruption.
_LIBRARIES: Final = _REPORTERS | {"greenlet", "tenacity"} | sys.stdlib_module_names


def is_interruption(error: BaseException) -> bool:
    """Return whether *error* is an interruption, which says nothing about what the server did.

    Interruptions are: exceptions that aren't an ``Exception`` (Ctrl-C, a cancellation); those that a signal handler
    raised (the time limits of RQ and Celery, say); and an application's own class raised in a line outside the
    application (as ``PyThreadState_SetAsyncExc`` does). What the application's own functions raise, such as types and
    listeners, is no interruption.
    """
    if not isinstance(error, Exception):
        return True
    if isinstance(error, PrefiqDbError):
        return False
    root = _root(type(error).__module__)
    if root in _REPORTERS:
        return False
    if _from_handler(error.__traceback__):
        return True
    return root not in sys.stdlib_module_names and _raised_in(error.__traceback__) in _LIBRARIES


def _from_handler(trace: TracebackType | None) -> bool:
    handlers = {code for number in signal.valid_signals() if (code := _code_of(signal.getsignal(number))) is not None}
    while trace is not None and handlers:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    """Return the code that *handler* runs: it is a function, a method, a ``partial`` or an object with ``__call__``."""
    while hasattr(handler, "func"):
        handler = handler.func
    if not callable(handler):
        return None
    called = handler if hasattr(handler, "__code__") else type(handler).__call__
    code = getattr(getattr(handler, "__func__", called), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _raised_in(trace: TracebackType | None) -> str | None:
    """Return the package of the traceback's innermost line."""
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return _root(trace.tb_frame.f_globals.get("__name__", ""))


def _root(module: str) -> str:
    return module.partition(".")[0]
