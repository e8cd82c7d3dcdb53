"""The behaviour once, run for both worlds."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never really waits to its end, without any event loop; return its result.

    Raises:
        RuntimeError: if it waits for something: then it isn't of the sync world.
    """
    try:
        waited_for = coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError(f"in the sync world nothing may wait, but the test waits for {waited_for!r}")
