"""Empty the frames that an error has come through: error trackers record their local variables, values and secrets too.

Sentry does so by default, and so do rich's and structlog's tracebacks. Nothing is done while all goes well. The lines
stay; why not another repr: docs/decisions/0093-why-frames-are-emptied-on-the-way-out.md.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final

# Whose frames see what was given to us. Everybody else's are the application's own, and his business.
_EMPTIED: Final = frozenset(
    {"prefiq_db", "sqlalchemy", "tenacity", "psycopg", "psycopg_binary", "pymysql", "asyncmy", "aiosqlite"}
)


def hush(error: BaseException) -> None:
    """Empty what *error*, and the errors behind it, have come through and that has ended.

    A frame that still runs can't be emptied: whoever catches *error* drops its own variables. A generator or coroutine
    that waits is left alone: it caught the error and goes on, in another task perhaps, and to empty it would end it.
    """
    for each in _chain(error):
        trace: TracebackType | None = each.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if frame.f_globals.get("__name__", "").partition(".")[0] in _EMPTIED and has_ended(frame):
                with contextlib.suppress(RuntimeError):  # it still runs
                    frame.clear()
            trace = trace.tb_next


def has_ended(frame: FrameType) -> bool:
    """Return whether *frame* keeps its variables itself: those of one that runs, or waits, are somebody else's.

    Only then the garbage collector goes through them, and through the code with them (``frame_traverse`` in CPython's
    ``Objects/frameobject.c``). Asking ``frame.clear()`` is no way: up to Python 3.12 it ends a coroutine that waits.
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
