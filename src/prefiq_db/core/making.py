"""What a ``Database`` is made from, and how it refuses what it can't do."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from prefiq_db.errors import UnsupportedError, UsageError
from prefiq_db.hooks.explain import Explainer
from prefiq_db.hooks.registry import Hooks
from prefiq_db.hooks.statements import StatementObserver
from prefiq_db.settings import DatabaseSettings

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def not_yet(verb: str) -> NoReturn:
    """Raise for a verb of the design that has no implementation yet."""
    raise UnsupportedError(f"{verb}: not supported yet in this version of prefiq_db")


def as_settings(settings: DatabaseSettings | str, fields: Mapping[str, Any]) -> DatabaseSettings:
    """Return *settings*, made from a URL if it is one."""
    if isinstance(settings, DatabaseSettings):
        if fields:
            raise UsageError(
                "expected either DatabaseSettings or a URL with further fields; put them into the settings"
            )
        return settings
    if isinstance(settings, str):
        return DatabaseSettings(url=settings, **fields)
    raise UsageError(f"expected a URL or DatabaseSettings, not {type(settings).__name__}")


def dialect_label(settings: DatabaseSettings) -> str:
    """Return the dialect's name for classify_error."""
    return settings.target.product.dialect


def make_observer(settings: DatabaseSettings, name: str, hooks: Hooks) -> StatementObserver:
    """Return the observer of one database's statements."""
    label = dialect_label(settings)
    return StatementObserver(name, label, hooks, masked=settings.masked, slow_seconds=settings.slow_query_seconds)


def make_explainer(settings: DatabaseSettings, name: str) -> Explainer | None:
    """Return what asks for plans of slow statements, if the settings say so."""
    if not settings.explain_slow_queries:
        return None
    return Explainer(name, dialect_label(settings), time.monotonic, masked=settings.masked)


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


def unpicklable(database: Any) -> UsageError:
    return UsageError(
        f"{type(database).__name__} can't be pickled: connections belong to one process; pass its settings' source and "
        "make one there"
    )
