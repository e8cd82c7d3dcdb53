"""What a forked child makes anew: locks that another thread of the parent may have held, threads and sockets.

Whoever makes one registers it here with the same line, so that nobody has to keep a list. Nothing else in the package
is called after a fork: decisions/0113-why-one-registry-for-what-a-child-renews.md.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

L = TypeVar("L")

_Renewal = Callable[[Any], None]


class _Owner(weakref.ref[Any]):
    """Of an owner, who may compare as it likes."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


# An entry goes with its owner. No line of ours runs then: what interrupted it would be lost, as in every such call.
_renewals: dict[_Owner, _Renewal] = {}


@overload
def renewed(owner: Any, name: str) -> threading.Lock: ...
@overload
def renewed(owner: Any, name: str, make: Callable[[], L]) -> L: ...
def renewed(owner: Any, name: str, make: Callable[[], Any] = threading.Lock) -> Any:
    """Return a new lock, to be kept as *name* of *owner* (an object or a module); a forked child gets another one."""
    in_child(owner, lambda found: setattr(found, name, make()))
    return make()


def in_child(owner: Any, renew: _Renewal) -> None:
    """Call ``renew(owner)`` in each forked child where *owner* is still there, in the order of registration.

    *renew* must not hold *owner*: a function of its class does, a bound method doesn't do.
    """
    _renewals[_Owner(owner, _renewals.pop)] = renew


def _renew_all() -> None:
    for reference, renew in list(_renewals.items()):
        owner = reference()
        if owner is not None:
            renew(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
