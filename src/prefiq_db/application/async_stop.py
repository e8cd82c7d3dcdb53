"""The async method that stops a provider, under its name ``ashutdown`` or its old name ``shutdown_async``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

#: The new name first: it counts where a class has both.
STOP_NAMES: Final = ("ashutdown", "shutdown_async")

#: Set on a ``shutdown_async`` that only calls ``ashutdown``.
FORWARDS: Final = "prefiq_db_forwards"


def find_stop(cls: type) -> tuple[str, type] | None:
    """Return the name of the method that stops an instance of *cls*, and the class in its MRO that has it.

    As for every other method, the first class counts, whichever of the two names it uses.
    """
    return next(
        ((name, each) for each in cls.__mro__ for name in STOP_NAMES if _is_defined(each.__dict__.get(name))), None
    )


def _is_defined(method: Any) -> bool:
    return method is not None and not getattr(method, FORWARDS, False)


def name_of_stop(provider: Any) -> str:
    """Return the name of the method that stops *provider*: its own attribute, or its class's."""
    own = getattr(provider, "__dict__", {})
    if (name := next((name for name in STOP_NAMES if name in own), None)) is not None:
        return name
    if (found := find_stop(type(provider))) is not None:
        return found[0]
    return next((name for name in STOP_NAMES if hasattr(provider, name)), "ashutdown")


def async_stop(provider: Any) -> Callable[[], Awaitable[None]]:
    """Return the async method that stops *provider*."""
    stop: Callable[[], Awaitable[None]] = getattr(provider, name_of_stop(provider))
    return stop
