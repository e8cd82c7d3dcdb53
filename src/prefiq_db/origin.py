"""Find the line of the application that called us, in both worlds."""

from __future__ import annotations

import os
import re
import sys
from types import CodeType, FrameType

import sqlalchemy
import tenacity

from prefiq_db.bridge import frame_behind
from prefiq_db.events import Origin

# A line as it is kept: two references, made into text only when it is read.
Line = tuple[CodeType, int]

# What the file of a frame is: the higher, the less it is the application.
_APPLICATION, _PACKAGE, _RUNNER, _LOOP = range(4)

_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_RUNNERS = (
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    os.path.dirname(os.path.abspath(sqlalchemy.__file__)) + os.sep,
    os.path.dirname(os.path.abspath(tenacity.__file__)) + os.sep,
    # what runs an application is not the application
    *(_STDLIB + part for part in ("contextlib.py", "threading.py", "asyncio" + os.sep, "concurrent" + os.sep)),
    "<frozen ",
    "<sqlalchemy generated ",
)
_LOOPS = tuple(_STDLIB + "asyncio" + os.sep + name for name in ("base_events.py", "runners.py"))
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\](?P<bridge>(?:anyio|asgiref|nest_asyncio|uvloop)\b)?")
_PROGRAMS = os.path.dirname(os.path.abspath(sys.executable)) + os.sep
_kinds: dict[str, int] = {}


def _kind_of(path: str) -> int:
    """Return what a file is, and remember it."""
    installed = _INSTALLED.search(path)
    if path.startswith(_LOOPS):
        kind = _LOOP
    elif path.startswith(_RUNNERS) or (installed is not None and installed["bridge"]):
        kind = _RUNNER
    else:
        kind = _PACKAGE if installed is not None or path.startswith(_PROGRAMS) else _APPLICATION
    _kinds[path] = kind
    return kind


def application_line() -> Line | None:
    """Return the innermost line that is neither ours nor SQLAlchemy's; ``None`` if there is none.

    In the async world the statement runs inside a greenlet, whose own frames end at the bridge; the application waits
    behind it (measured: ``traceback.extract_stack()`` there does not contain it). Below an event loop an installed
    package is no application, but the server that runs it: a task of a verb alone has no line that is known.
    """
    frame: FrameType | None = sys._getframe(1)
    behind = False
    most = _PACKAGE
    while True:
        while frame is not None:
            code = frame.f_code
            kind = _kinds.get(code.co_filename)
            if kind is None:
                kind = _kind_of(code.co_filename)
            if kind <= most:
                return code, frame.f_lineno
            if kind == _LOOP:
                most = _APPLICATION
            frame = frame.f_back
        if behind:
            return None
        frame, behind = frame_behind(), True


def skip_file(path: str) -> None:
    """Pass over the frames of a file from now on: for a layer of yours that everything goes through.

    *path* is the module's ``__file__``.
    """
    _kinds[path] = _RUNNER


def readable(line: Line | None) -> Origin | None:
    """Return *line* as people read it."""
    if line is None:
        return None
    code, number = line
    return Origin(code.co_filename, number, code.co_qualname)
