"""Give the verbs that a class takes over the class's own name, which Python shows in a TypeError."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

C = TypeVar("C", bound=type)


def takes_verbs_of(verbs: type) -> Callable[[C], C]:
    """Make a class whose body says ``fetch_all = Verbs.fetch_all`` show ``Database.fetch_all() missing ...``."""

    def name_verbs(cls: C) -> C:
        for name, verb in list(vars(cls).items()):
            if vars(verbs).get(name) is verb and isinstance(verb, FunctionType):
                setattr(cls, name, _copy_named(verb, cls))
        return cls

    return name_verbs


def _copy_named(verb: FunctionType, cls: type) -> FunctionType:
    made = FunctionType(verb.__code__, verb.__globals__, verb.__name__, verb.__defaults__, verb.__closure__)
    made.__kwdefaults__ = verb.__kwdefaults__
    made.__annotations__ = dict(verb.__annotations__)
    made.__doc__ = verb.__doc__
    made.__module__ = cls.__module__
    made.__qualname__ = f"{cls.__qualname__}.{verb.__name__}"
    return made
