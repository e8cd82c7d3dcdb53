"""The provider classes of a service; no instances, because each of those belongs to one Application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

from prefiq_db.errors import BindingError, UsageError
from prefiq_db.providers.base_provider import BaseProvider
from prefiq_db.providers.database_provider import DatabaseProvider
from prefiq_db.providers.settings_provider import SettingsProvider

C = TypeVar("C", bound=type[BaseProvider])


class ProviderRegistry:
    """A list of provider classes with unique names, in order of registration."""

    def __init__(self, *classes: type[BaseProvider]) -> None:
        self._classes: dict[str, type[BaseProvider]] = {}
        for cls in classes:
            self.register(cls)

    def register(self, cls: C) -> C:
        """Add a provider class and return it, so that it works as a decorator; adding it twice has no effect.

        Raises:
            BindingError: another class has that name.
            UsageError: *cls* is not a class derived from ``BaseProvider``.
        """
        known: Any = cls
        if not (isinstance(known, type) and issubclass(known, BaseProvider)):
            raise UsageError("register_provider takes a class derived from prefiq_db.BaseProvider")
        present = self._classes.get(cls.name)
        # A reloaded module defines its classes again: a class at the same place in the source is the same provider.
        if present is not None and _place(present) != _place(cls):
            raise BindingError(
                f"two provider classes are called {cls.name!r}: {_place(present)} and {_place(cls)};"
                " give one of them another `name`"
            )
        self._classes[cls.name] = cls
        return cls

    def __iter__(self) -> Iterator[type[BaseProvider]]:
        return iter(tuple(self._classes.values()))

    def __contains__(self, cls: object) -> bool:
        return cls in self._classes.values()

    def __len__(self) -> int:
        return len(self._classes)


def _place(cls: type[BaseProvider]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


default_registry: Final = ProviderRegistry(SettingsProvider, DatabaseProvider)


def register_provider(cls: C) -> C:
    """Class decorator: ``bootstrap()`` starts this provider too, if its module was imported before."""
    return default_registry.register(cls)
