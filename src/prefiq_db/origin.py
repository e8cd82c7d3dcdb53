"""Find the application's line that called us, in sync and async code."""

from __future__ import annotations

import os
import re
import sys
from types import FrameType

import sqlalchemy
import tenacity

from prefiq_db.bridge import frame_behind, frames_acted_for
from prefiq_db.events import Line, Origin

# The kind of a frame's file: the higher, the less likely it is the application.
_APPLICATION, _PACKAGE, _RUNNER, _LOOP = range(4)

_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_RUNNERS = (
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    os.path.dirname(os.path.abspath(sqlalchemy.__file__)) + os.sep,
    os.path.dirname(os.path.abspath(tenacity.__file__)) + os.sep,
    # these run an application and are not part of it
    *(_STDLIB + part for part in ("contextlib.py", "threading.py", "asyncio" + os.sep, "concurrent" + os.sep)),
    "<frozen ",
    "<sqlalchemy generated ",
)
_LOOPS = tuple(_STDLIB + "asyncio" + os.sep + name for name in ("base_events.py", "runners.py"))
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\](?P<bridge>(?:anyio|asgiref|nest_asyncio|pymongo|uvloop)\b)?")
_PROGRAMS = os.path.dirname(os.path.abspath(sys.executable)) + os.sep
_kinds: dict[str, int] = {}


def _kind_of(path: str) -> int:
    """Return the kind of a file, and cache it."""
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

    In async mode the statement runs inside a greenlet, whose own frames end at the bridge; the application's frames are
    those of the waiting parent (measured: ``traceback.extract_stack()`` does not contain them). Below an event loop an
    installed package is not the application but the server that runs it, so a task that is only a verb has no line.
    """
    frame = _application_frame(sys._getframe(1))
    return None if frame is None else (frame.f_code, frame.f_lineno)


def line_of_the_verb(depth: int = 2) -> Line | None:
    """Return the same, cheaper, for a function that a verb's core calls: the *depth* frames above are ours.

    Fewer are above it where the bridge calls the core itself; then the application waits behind the bridge.
    """
    try:
        called_by: FrameType | None = sys._getframe(depth)
    except ValueError:
        called_by = None
    frame = _application_frame(called_by)
    return None if frame is None else (frame.f_code, frame.f_lineno)


def _application_frame(frame: FrameType | None) -> FrameType | None:
    """Return the first frame from *frame* outwards that :func:`application_line` means."""
    behind = False
    kinds, most = _kinds, _PACKAGE
    while True:
        while frame is not None:
            path = frame.f_code.co_filename
            try:
                kind = kinds[path]
            except KeyError:
                kind = _kind_of(path)
            if kind != _RUNNER:
                if kind <= most:
                    return frame
                most = _APPLICATION  # below an event loop
            frame = frame.f_back
        if behind:
            return None
        for waiting in frames_acted_for():
            if _is_caller(waiting):
                return waiting
        frame, behind = frame_behind(), True


def _is_caller(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return (_kinds[path] if path in _kinds else _kind_of(path)) <= _PACKAGE


def skip_file(path: str) -> None:
    """Skip the frames of a file from now on: for a layer of your own that makes all the calls.

    *path* is the module's ``__file__``.
    """
    _kinds[path] = _RUNNER


def readable(line: Line | None) -> Origin | None:
    """Return *line* in readable form."""
    if line is None:
        return None
    code, number = line
    return Origin(code.co_filename, number, code.co_qualname)
