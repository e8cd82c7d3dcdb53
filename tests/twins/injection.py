"""Raise an exception at a line of the library of one's choice, as a signal handler would, and look at what is left.

What a job queue's time limit or Ctrl-C does at a moment of chance is done here at each line in turn: a trace function
counts the lines of the library that are executed and, at the chosen one, sends a real signal whose handler raises.
"""

from __future__ import annotations

import dis
import functools
import inspect
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import prefiq_db

LIBRARY = str(Path(prefiq_db.__file__).parent)
# What an exception in a finaliser becomes is Python's: it is printed, and goes nowhere.
_FINALISERS = frozenset({"__del__"})
# A generator that goes on looks like a call, but what interrupts it there is inside of its try blocks.
_RESUMED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Halt(BaseException):
    """Like KeyboardInterrupt or SystemExit."""


class JobTimeout(Exception):  # noqa: N818 - as the queues call theirs
    """Like RQ's JobTimeoutException or Celery's SoftTimeLimitExceeded: an ordinary exception, out of a handler."""


class Line:
    """A place in a code object where a line of it begins; the code is told by identity, which is faster."""

    __slots__ = ("_key", "code", "offset")

    def __init__(self, code: CodeType, offset: int) -> None:
        self.code = code
        self.offset = offset
        self._key = (id(code), offset)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Line) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


class Injector:
    """Interrupts at the line with the number *at* of those that a block executes; ``None`` only counts them.

    Attributes:
        error: what was raised; ``None`` as long as the line was not reached.
        stack: the names of the functions that were running then, the innermost first, with their lines.
    """

    def __init__(self, kind: type[BaseException], at: int | None) -> None:
        self.kind = kind
        self.at = at
        self.count = 0
        self.error: BaseException | None = None
        self.stack: list[str] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        if not self.stack:
            self.stack = list(_running(frame))
        raise self._made()

    def _made(self) -> BaseException:
        made = self.kind("injected")
        if self.error is None:
            self.error = made
        return made

    def calls(self, frame: FrameType, event: str, arg: object) -> Any:
        place = _place_of(frame.f_code)
        # What comes after the interruption is of no interest, and would take half of the time.
        if not place.is_ours or self.error is not None:
            return None
        if place.begins:
            self._reached(frame)
        return self.lines

    def lines(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and self.error is None:
            place = _place_of(frame.f_code)
            if place.hears(frame.f_lasti):
                self._reached(frame)
        return self.lines

    def _reached(self, frame: FrameType) -> None:
        self.count += 1
        if self.count == self.at:
            self.stack = list(_running(frame))
            signal.raise_signal(signal.SIGALRM)

    def was_in(self, function: str) -> bool:
        """Return whether *function* was running when it was interrupted."""
        return any(line.endswith(f" {function}") for line in self.stack)


class Recorder(Injector):
    """Interrupts nothing, and notes the lines that a block executes, each with how many times it was there before."""

    def __init__(self) -> None:
        super().__init__(Halt, None)
        self.visits: list[tuple[Line, int]] = []
        self._visited: Counter[Line] = Counter()

    def _reached(self, frame: FrameType) -> None:
        line = Line(frame.f_code, frame.f_lasti)
        self.visits.append((line, self._visited[line]))
        self._visited[line] += 1


class LineInjector(Injector):
    """Interrupts at one line, when a block executes it once more than *visits* times; follows its function alone."""

    def __init__(self, kind: type[BaseException], line: Line, visits: int) -> None:
        super().__init__(kind, visits + 1)
        self._line = line

    def calls(self, frame: FrameType, event: str, arg: object) -> Any:
        return super().calls(frame, event, arg) if frame.f_code is self._line.code else None

    def _reached(self, frame: FrameType) -> None:
        if frame.f_lasti == self._line.offset:
            super()._reached(frame)


class _Place:
    """What a trace function must know of *code*: looked up at each call and line, so it is worked out once."""

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.is_ours = code.co_filename.startswith(LIBRARY) and code.co_name not in _FINALISERS
        self.begins = not code.co_flags & _RESUMED
        self._heard: dict[int, bool] = {}

    def hears(self, offset: int) -> bool:
        heard = self._heard.get(offset)
        if heard is None:
            heard = self._heard[offset] = _can_be_interrupted(self.code, offset)
        return heard


# By identity: code objects are compared and hashed by all that is in them. Each place keeps its own alive.
_places: dict[int, _Place] = {}


def _place_of(code: CodeType) -> _Place:
    found = _places.get(id(code))
    if found is None:
        found = _places[id(code)] = _Place(code)
    return found


def _can_be_interrupted(code: CodeType, offset: int) -> bool:
    """Return whether a signal can be heard at the line that begins at *offset*, and not only at the one after it.

    CPython looks for signals where a function begins, after calls, and where a loop jumps back. A trace function gets
    in between at two more places, and nothing else does: at the NOP of a ``try:``, whose block isn't protected yet,
    and at the line of a ``with`` when its block has ended and all that is left is to call ``__exit__``.
    """
    rest = [step for step in _steps(code) if step.offset >= offset][:5]
    leaves_with = all(step.opname == "LOAD_CONST" and step.argval is None for step in rest[:3]) and any(
        step.opname == "CALL" for step in rest[3:]
    )
    return rest[0].opname != "NOP" and not leaves_with


@functools.cache
def _steps(code: CodeType) -> list[dis.Instruction]:
    return [step for step in dis.get_instructions(code) if step.opname != "CACHE"]


def _running(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        name = frame.f_code.co_filename
        yield f"{name.removeprefix(LIBRARY)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back


@contextmanager
def handled(injector: Injector) -> Iterator[None]:
    """Let *injector* handle SIGALRM in this block."""
    before = signal.signal(signal.SIGALRM, injector.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def interrupted(injector: Injector, work: Callable[[], Any]) -> BaseException | None:
    """Run *work* under *injector*; return what came out of it."""
    with handled(injector):
        before = sys.gettrace()
        sys.settrace(injector.calls)
        try:
            work()
        except BaseException as error:
            return error
        finally:
            sys.settrace(before)
    return None
