"""Find the line of the application that called us, in both worlds."""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType

import sqlalchemy
import tenacity

from prefiq_db.bridge import frame_behind
from prefiq_db.events import Origin

# A line as it is kept: two references, made into text only when somebody reads it.
Line = tuple[CodeType, int]

_RUNNERS = ("contextlib.py", "threading.py", "asyncio" + os.sep, "concurrent" + os.sep)
_OURS = (
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    os.path.dirname(os.path.abspath(sqlalchemy.__file__)) + os.sep,
    os.path.dirname(os.path.abspath(tenacity.__file__)) + os.sep,
    # contextlib, asyncio, threading, concurrent.futures: what runs an application is not the application
    *(os.path.dirname(os.path.abspath(os.__file__)) + os.sep + part for part in _RUNNERS),
    "<frozen ",
)
_is_ours: dict[str, bool] = {}


def application_line() -> Line | None:
    """Return the innermost line that is neither ours nor SQLAlchemy's; ``None`` if there is none.

    In the async world the statement runs inside a greenlet, whose own frames end at the bridge; the application waits
    behind it (measured: ``traceback.extract_stack()`` there does not contain it).
    """
    frame: FrameType | None = sys._getframe(1)
    behind = False
    while True:
        while frame is not None:
            code = frame.f_code
            ours = _is_ours.get(code.co_filename)
            if ours is None:
                ours = _is_ours[code.co_filename] = code.co_filename.startswith(_OURS)
            if not ours:
                return code, frame.f_lineno
            frame = frame.f_back
        if behind:
            return None
        frame, behind = frame_behind(), True


def skip_file(path: str) -> None:
    """Pass over the frames of a file from now on: for a layer of yours that everything goes through.

    *path* is the module's ``__file__``.
    """
    _is_ours[path] = True


def readable(line: Line | None) -> Origin | None:
    """Return *line* as people read it."""
    if line is None:
        return None
    code, number = line
    return Origin(code.co_filename, number, code.co_qualname)
