"""The signature that a decorated function shows."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def wraps_without_tx(fn: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return ``functools.wraps(fn)`` for a wrapper without the first parameter of *fn*, its ``tx``.

    Frameworks read the signature: FastAPI would look for ``tx`` in the request.
    """

    def decorate(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        functools.update_wrapper(wrapper, fn)
        try:
            signature = inspect.signature(fn)
        except ValueError:  # some callables written in C have no signature
            return wrapper
        parameters = list(signature.parameters.values())
        if parameters and parameters[0].kind in _POSITIONAL:
            wrapper.__signature__ = signature.replace(parameters=parameters[1:])  # type: ignore[attr-defined]
        return wrapper

    return decorate
