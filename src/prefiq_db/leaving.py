"""Blocks whose end is certain: also when ``__exit__`` itself is interrupted before its first line could protect it.

A ``with`` statement holds the bound ``__exit__`` until the block has been left, and nothing else does. So when that
method object is gone and its work isn't done, an interruption hit where no ``try`` of ours was open yet, and the
work is made up for, at once, in the same thread. With a garbage collector instead of CPython's counting it is later.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class Left(Protocol):
    """Something with an ``__exit__`` that is decorated by :func:`surely`."""

    _watch: object

    @property
    def _is_begun(self) -> bool:
        """Whether it was entered: what is looked up later is not a ``with`` statement's."""

    def _finish(self) -> None:
        """Do what leaving the block does to others, if it isn't done."""


class _Surely:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.__wrapped__
        bound = functools.partial(self.__wrapped__, instance)
        if not instance._is_begun:
            instance._watch = weakref.ref(bound, _Finish(instance))
        return bound


class _Finish:
    """What is called when the ``with`` statement has let go of an ``__exit__``."""

    __slots__ = ("_instance",)

    def __init__(self, instance: Left) -> None:
        # Weak: what watches over it must not keep it alive.
        self._instance = weakref.ref(instance)

    def __call__(self, gone: object) -> None:
        instance = self._instance()
        if instance is not None and instance._is_begun:
            instance._finish()


def surely(function: F) -> F:
    """Decorate an ``__exit__``: whatever interrupts it, :meth:`Left._finish` is called in the end."""
    return cast("F", _Surely(function))
