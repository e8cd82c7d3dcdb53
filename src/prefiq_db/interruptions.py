"""Tell what came from outside (a signal, a time limit, a cancellation) from what a driver or SQLAlchemy reports.

The one is the caller's and goes on as it is; after it nobody knows how far a conversation with the server came. The
other is an answer, and is translated.
"""

from __future__ import annotations

import signal
import sys
from types import CodeType, TracebackType
from typing import Any, Final

from prefiq_db.errors import PrefiqDbError

# Whose exceptions are reports, whatever raised them.
_REPORTERS: Final = frozenset(
    {"sqlalchemy", "psycopg", "psycopg_pool", "pymysql", "asyncmy", "aiosqlite", "sqlite3", "_sqlite3", "prefiq_db"}
)
# Where an exception of a class that is none of theirs can only have been put in from outside.
_LIBRARIES: Final = _REPORTERS | {"greenlet", "tenacity"} | sys.stdlib_module_names


def is_interruption(error: BaseException) -> bool:
    """Return whether *error* came from outside, and says nothing of what the server did.

    That is whatever is no ``Exception`` (Ctrl-C, a cancellation), whatever a signal handler raised (the time limits of
    RQ and Celery, say), and an application's own class raised in a line that is not the application's (as
    ``PyThreadState_SetAsyncExc`` does). What a type, a listener or another function of the application raises is none.
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
    """Return what runs when *handler* is called: a function, a method, a ``partial``, an object with ``__call__``."""
    while hasattr(handler, "func"):
        handler = handler.func
    if not callable(handler):
        return None
    called = handler if hasattr(handler, "__code__") else type(handler).__call__
    code = getattr(getattr(handler, "__func__", called), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _raised_in(trace: TracebackType | None) -> str | None:
    """Return the package of the innermost line."""
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return _root(trace.tb_frame.f_globals.get("__name__", ""))


def _root(module: str) -> str:
    return module.partition(".")[0]
