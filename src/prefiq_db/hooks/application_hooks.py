"""Listeners of all databases of an application at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefiq_db.events import Listener
from prefiq_db.hooks.registry import Hooks

F = TypeVar("F", bound=Callable[..., Any])


class HooksOfAll:
    """Like :class:`~prefiq_db.hooks.registry.Hooks`, but for all databases at once: ``app.resolve("hooks")``."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        self._hooks = tuple(hooks)

    def before(self, fn: F) -> F:
        """Call *fn* before each statement of any database."""
        for hooks in self._hooks:
            hooks.before(fn)
        return fn

    def after(self, fn: F) -> F:
        """Call *fn* after each statement of any database that succeeded."""
        for hooks in self._hooks:
            hooks.after(fn)
        return fn

    def on_error(self, fn: F) -> F:
        """Call *fn* after each statement of any database that failed."""
        for hooks in self._hooks:
            hooks.on_error(fn)
        return fn

    def add(self, listener: Listener) -> Listener:
        """Add a listener to every database."""
        for hooks in self._hooks:
            hooks.add(listener)
        return listener

    def remove(self, listener: Listener | Callable[..., Any]) -> None:
        """Remove a listener or function from every database."""
        for hooks in self._hooks:
            hooks.remove(listener)
