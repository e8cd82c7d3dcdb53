"""SettingsProvider: the only part of a service that reads its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefiq_db.errors import BindingError, UsageError
from prefiq_db.providers.base_provider import BaseProvider
from prefiq_db.settings import Settings, load_settings

if TYPE_CHECKING:
    from pydantic import BaseModel


class SettingsProvider(BaseProvider):
    """Bind ``settings``: every namespace, read and validated before anything connects.

    Args:
        settings: ready settings to bind instead of reading any; the other arguments must then be absent.
        arguments: values that override the environment, ``.env`` and YAML.
        environ: variables to read instead of the process's own.
        directory: where ``.env`` and YAML are, instead of the working directory or ``PREFIQ_SETTINGS_DIR``.
    """

    name = "settings"
    provides = ("settings",)

    def __init__(
        self,
        *,
        settings: Settings | None = None,
        arguments: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        if settings is not None and not (arguments is None and environ is None and directory is None):
            raise UsageError("ready settings leave nothing to read: pass settings, or arguments/environ/directory")
        self._ready = settings
        self._arguments = arguments
        self._environ = environ
        self._directory = None if directory is None else Path(directory)

    def register(self) -> None:
        """Load the settings of all providers' namespaces.

        Raises:
            SettingsError: lists every problem found, in every namespace.
            BindingError: two providers claim one namespace with different models.
        """
        namespaces = self._namespaces()
        if self._ready is None:
            settings = load_settings(
                namespaces, environ=self._environ, directory=self._directory, arguments=self._arguments
            )
        else:
            settings = self._ready
        self.app.bind("settings", settings)

    def _namespaces(self) -> dict[str, type[BaseModel]]:
        namespaces: dict[str, type[BaseModel]] = {}
        for provider in self.app.providers:
            namespace, model = provider.schema_namespace, provider.schema_model
            if namespace is None or model is None:
                continue
            if namespaces.setdefault(namespace, model) is not model:
                raise BindingError(
                    f"two providers claim the settings namespace {namespace!r} with different models:"
                    f" {namespaces[namespace].__name__} and {model.__name__}"
                )
        return namespaces
