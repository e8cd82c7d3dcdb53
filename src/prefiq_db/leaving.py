"""Blocks that always clean up, even if ``__exit__`` is interrupted before its first line enters a ``try``.

Only the ``with`` statement references the bound ``__exit__``, until the block has been left. So if that method object
is freed and its work isn't done, an interruption hit before our ``try``, and the work is done then, at once, in the
same thread. Without CPython's reference counting it happens at the next garbage collection.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class Left(Protocol):
    """An object whose ``__exit__`` is decorated with :func:`surely`."""

    _watch: object

    @property
    def _is_begun(self) -> bool:
        """Whether it was entered: a look-up of ``__exit__`` after that is not by the ``with`` statement."""

    def _finish(self) -> None:
        """Do the clean-up of leaving the block, unless it is done."""


class _Surely:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.__wrapped__
        bound = functools.partial(self.__wrapped__, instance)
        if not instance._is_begun:
            # Weak: the callback must not keep the instance alive.
            instance._watch = weakref.ref(bound, functools.partial(_finish, weakref.ref(instance)))
        return bound


def _finish(of: weakref.ref[Any], gone: object) -> None:
    """Clean up, because the ``with`` statement has dropped its reference to ``__exit__``."""
    instance: Left | None = of()
    if instance is not None and instance._is_begun:
        instance._finish()


def surely(function: F) -> F:
    """Decorate an ``__exit__`` so that :meth:`Left._finish` is called in the end, even if it is interrupted."""
    return cast("F", _Surely(function))
