"""Recognise results whose body has not run: generators and coroutines that were never started.

Calling a generator function doesn't run its body. A transaction around such a call would be committed empty.
"""

from __future__ import annotations

import functools
import inspect
import opcode
from collections.abc import Callable
from typing import Any, Final

from prefiq_db.errors import UsageError

# The opcode that a generator stops at until it is started; see inspect.getgeneratorstate().
_NOT_STARTED: Final = opcode.opmap["RETURN_GENERATOR"]


def refuse_unrun(result: Any, what: str) -> None:
    """Raise :class:`UsageError` if *result* shows that the function's body has not run.

    That is a generator, an async generator or a coroutine that was created and never started. Started or ended ones
    are accepted, and so is every other iterator.
    """
    if inspect.isgenerator(result):
        unrun = inspect.getgeneratorstate(result) == inspect.GEN_CREATED
    elif inspect.iscoroutine(result):
        unrun = inspect.getcoroutinestate(result) == inspect.CORO_CREATED
        if unrun:
            result.close()  # or Python warns that it was never awaited
    else:
        unrun = inspect.isasyncgen(result) and _is_unstarted(result)
    if unrun:
        raise UsageError(
            f"{what}: expected a function whose body runs when it is called; this one returned a {_noun(result)} that "
            "nobody has started, so nothing of it was done: use a plain function (or, with an AsyncDatabase, an async "
            "one) without yield, and return a list"
        )


def refuse_uncallable(function: Any, what: str) -> None:
    """Raise :class:`UsageError` if *function* isn't callable, before any work begins."""
    if not callable(function):
        raise UsageError(f"{what}: expected a function, not {type(function).__name__}")


def refuse_generator_function(function: Any, what: str) -> None:
    """Raise :class:`UsageError` if *function* isn't callable, or is a generator function."""
    refuse_uncallable(function, what)
    called = _called(function)
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise UsageError(f"{what}: expected a function without yield: calling a generator function runs nothing of it")


def is_coroutine_function(function: Any) -> bool:
    """Return whether calling *function*, or a ``partial`` or an object with ``__call__``, gives a coroutine."""
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(_called(function))
    )


def refuse_coroutine_function(function: Any, what: str) -> None:
    """Raise :class:`UsageError` if calling *function* gives a coroutine, which would never be awaited."""
    if is_coroutine_function(function):
        raise UsageError(f"{what}: expected a plain function; an AsyncDatabase takes a coroutine function")


def refuse_awaitable(result: Any, what: str) -> None:
    """Raise :class:`UsageError` if *result* is an awaitable, which would never be awaited, or its body has not run."""
    if inspect.isawaitable(result) and not inspect.iscoroutine(result):
        raise UsageError(f"{what}: expected a plain function; this one returned an awaitable, which nobody would await")
    refuse_unrun(result, what)


def _called(function: Any) -> Callable[..., Any]:
    """Return the function that runs when *function* is called: behind ``partial``, or an object's ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    return type(function).__call__


def _is_unstarted(generator: Any) -> bool:
    # inspect.getasyncgenstate() exists only from Python 3.12 on.
    frame = generator.ag_frame
    return frame is not None and frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == _NOT_STARTED


def _noun(result: Any) -> str:
    return type(result).__name__.replace("_", " ")
