"""Greenlets that are kept for the next call: making one takes memory from the system, and ending it gives that back.

Each runs one synchronous function after another, each for a coroutine that awaits for it, as SQLAlchemy's
``greenlet_spawn`` does with a new one. A function that raises ends its greenlet.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

#: how many are kept in each thread; more run at the same time, and end
_MOST_KEPT: Final = 128

#: One that begins deeper in the stack than this part of the recursion limit is not kept: CPython counts its depth from
#: there for as long as it lives.
_DEEP: Final = 4


class _Desk:
    """What a greenlet and the coroutine that it works for hand to each other.

    Attributes:
        work: the function to run next, which is all that this list ever holds.
        is_busy: the greenlet has not ended that function.
        is_deep: the greenlet has less room for recursion than another caller may need.
        result: what the last one returned.
    """

    __slots__ = ("is_busy", "is_deep", "result", "work")

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []
        self.is_busy = False
        self.is_deep = _is_deep()
        self.result: Any = None


def _is_deep() -> bool:
    try:
        sys._getframe(sys.getrecursionlimit() // _DEEP)
    except ValueError:
        return False
    return True


class _Kept(greenlet):  # type: ignore[misc]  # it has no type information
    """A greenlet that waits for work at its desk."""

    #: SQLAlchemy's ``await_`` looks for it
    __sqlalchemy_greenlet_provider__: ClassVar[bool] = True

    def __init__(self) -> None:
        self.desk = _Desk()
        super().__init__(partial(_run, self.desk))


def _run(desk: _Desk) -> None:
    """Run what comes to *desk*. The greenlet itself is in no variable: that would keep it alive for ever."""
    while True:
        # Nor is the function, or its result: an idle greenlet must keep nothing alive.
        desk.result = desk.work.pop()()
        desk.is_busy = False
        getcurrent().parent.switch()


class _Here(threading.local):
    """Those of the running thread: a greenlet can't move to another one."""

    def __init__(self) -> None:
        self.idle: list[_Kept] = []


_here: Final = _Here()


async def spawn(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run the synchronous *function* so that it may ``await_``."""
    idle, driver = _here.idle, getcurrent()
    kept = idle.pop() if idle else _Kept()
    desk = kept.desk
    kept.parent = driver
    kept.gr_context = driver.gr_context
    desk.work.append(partial(function, *args, **kwargs))
    desk.is_busy = True
    wanted = kept.switch()
    while desk.is_busy:
        try:
            value = await wanted
        except BaseException:  # noqa: BLE001 - the function gets it, and raises what it likes
            kept.parent = getcurrent()
            wanted = kept.throw(*sys.exc_info())
        else:
            # An eager task may have begun in a greenlet, which is at another function by now.
            kept.parent = getcurrent()
            wanted = kept.switch(value)
    result: T = desk.result
    desk.result = kept.gr_context = None
    if len(idle) < _MOST_KEPT and not desk.is_deep:
        idle.append(kept)
    return result
