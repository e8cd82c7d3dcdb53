"""Recreate, in a forked child, the locks that another thread of the parent may have held, threads and sockets.

Each object registers here on the line that creates it, so no separate list is needed. Nothing else in the package is
called after a fork: decisions/0113-why-one-registry-for-what-a-child-renews.md.
"""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

L = TypeVar("L")

_Renewal = Callable[[Any], None]


class _Owner(weakref.ref[Any]):
    """A reference to an owner, compared by identity, however the owner defines equality."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


# A built-in callback removes an entry with its owner: in Python code there, an interruption would be swallowed.
_renewals: dict[_Owner, _Renewal] = {}


@overload
def renewed(owner: Any, name: str) -> threading.Lock: ...
@overload
def renewed(owner: Any, name: str, make: Callable[[], L]) -> L: ...
def renewed(owner: Any, name: str, make: Callable[[], Any] = threading.Lock) -> Any:
    """Return a new lock for attribute *name* of *owner* (an object or a module); a forked child gets a new one."""
    in_child(owner, lambda found: setattr(found, name, make()))
    return make()


def in_child(owner: Any, renew: _Renewal) -> None:
    """Call ``renew(owner)`` in each forked child where *owner* still exists, in the order of registration.

    *renew* must not reference *owner*: pass a function of its class, not a bound method.
    """
    _renewals[_Owner(owner, _renewals.pop)] = renew


def _pending() -> list[tuple[_Owner, _Renewal]]:
    """Return what is registered.

    Without the garbage collector: copying makes objects, which sets it off, and an owner that it collects in the middle
    changes the dictionary. The copy then raises, and the child would keep all of the parent's connections.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return list(_renewals.items())
    finally:
        if collects:
            gc.enable()


def _renew_all() -> None:
    failure: BaseException | None = None
    for reference, renew in _pending():
        owner = reference()
        if owner is not None:
            try:
                renew(owner)
            except BaseException as error:  # noqa: BLE001 - raised below: the others must not keep the parent's parts
                failure = failure or error
    if failure is not None:
        raise failure


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
