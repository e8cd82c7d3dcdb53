"""The settings of a whole application, as :func:`~prefiq_db.settings.load_settings` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from prefiq_db.errors import UsageError
from prefiq_db.settings.database_settings import DatabaseSettings


class Settings:
    """All settings of an application: frozen, and without values in its ``repr``.

    ``settings.database`` is the database ``main``, ``settings.databases`` has them all; the typed settings of the
    namespace ``billing`` are at ``settings.billing`` and ``settings["billing"]``. ``settings.sources`` shows which
    layer set which field: ``{"databases.main.port": "environment", "billing.api_key": ".env"}``. A pickle contains the
    databases without their secrets, and no namespaces: we can't know which fields of a user's model are secret.
    """

    __slots__ = ("_databases", "_environment", "_namespaces", "_sources")

    _databases: dict[str, DatabaseSettings]
    _environment: str
    _namespaces: dict[str, BaseModel]
    _sources: dict[str, str]

    def __init__(
        self,
        environment: str,
        databases: Mapping[str, DatabaseSettings],
        namespaces: Mapping[str, BaseModel],
        sources: Mapping[str, str],
    ) -> None:
        object.__setattr__(self, "_environment", environment)
        object.__setattr__(self, "_databases", dict(databases))
        object.__setattr__(self, "_namespaces", dict(namespaces))
        object.__setattr__(self, "_sources", dict(sources))

    @property
    def environment(self) -> str:
        """``PREFIQ_ENV``, or ``production`` when unset."""
        return self._environment

    @property
    def database(self) -> DatabaseSettings:
        """The database ``main``."""
        return self._databases["main"]

    @property
    def databases(self) -> Mapping[str, DatabaseSettings]:
        """Every database by name; ``main`` is always there."""
        return MappingProxyType(self._databases)

    @property
    def sources(self) -> Mapping[str, str]:
        """The layer that set each field."""
        return MappingProxyType(self._sources)

    def __getitem__(self, namespace: str) -> Any:
        if namespace in self._namespaces:
            return self._namespaces[namespace]
        raise KeyError(f"no namespace {namespace!r} in these settings; there are: {', '.join(self._namespaces) or '-'}")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name in self._namespaces:
            return self._namespaces[name]
        raise AttributeError(f"settings have no {name!r}; the namespaces are: {', '.join(self._namespaces) or '-'}")

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            raise UsageError("Settings are frozen: load them again with other arguments")

    def __repr__(self) -> str:
        return (
            f"Settings(environment={self._environment!r}, databases={list(self._databases)}, "
            f"namespaces={list(self._namespaces)})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return Settings, (self._environment, self._databases, {}, self._sources)
