"""Clear the frames that an error passed through: error trackers record their local variables, values and secrets too.

Sentry does so by default, and so do rich's and structlog's tracebacks. Without an error this costs nothing. The
traceback keeps its lines; why not another repr: docs/decisions/0093-why-frames-are-emptied-on-the-way-out.md.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final

# Packages whose frames see the arguments of a verb. All other frames belong to the application and stay as they are.
_EMPTIED: Final = frozenset(
    {
        "prefiq_db",
        "sqlalchemy",
        "tenacity",
        "psycopg",
        "psycopg_binary",
        "pymysql",
        "asyncmy",
        "aiosqlite",
        "pymongo",
        "bson",
    }
)


def hush(error: BaseException) -> None:
    """Clear the ended frames that *error*, and its causes and contexts, passed through.

    A running frame can't be cleared: the code that catches *error* deletes its own variables. A suspended generator or
    coroutine is left alone: it caught the error and goes on, perhaps in another task, and clearing would end it.
    """
    for each in _chain(error):
        trace: TracebackType | None = each.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if frame.f_globals.get("__name__", "").partition(".")[0] in _EMPTIED and has_ended(frame):
                with contextlib.suppress(RuntimeError):  # it is still running
                    frame.clear()
            trace = trace.tb_next


def has_ended(frame: FrameType) -> bool:
    """Return whether *frame* has ended and so owns its variables; a running or suspended frame doesn't.

    The garbage collector visits the variables, and the code object, only of a frame that owns them (``frame_traverse``
    in CPython's ``Objects/frameobject.c``). ``frame.clear()`` can't tell: up to Python 3.12 it ends a suspended
    coroutine.
    """
    return any(each is frame.f_code for each in gc.get_referents(frame))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            todo += each.exceptions
