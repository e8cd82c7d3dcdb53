"""How a decorated function presents itself to those who read signatures."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def wraps_without_tx(fn: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return ``functools.wraps(fn)`` for what is called without the first parameter of *fn*: its ``tx``.

    Frameworks read the signature: FastAPI would ask the request for ``tx``.
    """

    def decorate(wrapper: Callable[..., Any]) -> Callable[..., Any]:
        functools.update_wrapper(wrapper, fn)
        try:
            signature = inspect.signature(fn)
        except ValueError:  # some of what is written in C has none
            return wrapper
        parameters = list(signature.parameters.values())
        if parameters and parameters[0].kind in _POSITIONAL:
            wrapper.__signature__ = signature.replace(parameters=parameters[1:])  # type: ignore[attr-defined]
        return wrapper

    return decorate
