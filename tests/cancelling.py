"""Cancel a task at an await of one's choice."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


@types.coroutine
def at_each_await(coroutine: Coroutine[Any, Any, Any], action: Callable[[int], object]) -> Generator[Any, Any, Any]:
    """Drive *coroutine*, and call *action* with 1, 2 and so on in the running task, just before each suspension."""
    suspensions = 0
    resume: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731 - replaced in the loop
    while True:
        try:
            waits_for = resume()
        except StopIteration as end:
            return end.value
        suspensions += 1
        action(suspensions)
        try:
            value = yield waits_for
        except BaseException as error:
            resume = _thrower(coroutine, error)
        else:
            resume = _sender(coroutine, value)


def _thrower(coroutine: Coroutine[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(error)


def _sender(coroutine: Coroutine[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: coroutine.send(value)
