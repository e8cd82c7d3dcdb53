"""Create and boot an Application in one call.

This is a package, so that ``python -m prefiq_db.bootstrap`` runs its ``__main__``. A module would be executed a second
time (runpy warns about that, because ``prefiq_db`` itself imports it).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prefiq_db.application import Application
from prefiq_db.errors import UsageError
from prefiq_db.providers import BaseProvider, DatabaseProvider, SettingsProvider, default_registry

if TYPE_CHECKING:
    from prefiq_db.settings import Settings
from prefiq_db.silence import hush

__all__ = ["assemble", "bootstrap", "bootstrap_async"]

Providers = Iterable[type[BaseProvider] | BaseProvider]


def bootstrap(
    *,
    providers: Providers | None = None,
    settings: Settings | None = None,
    arguments: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Application:
    """Return a booted application: settings read, databases open, every provider started.

    Args:
        providers: the providers to start, instead of the classes given to ``@register_provider``. SettingsProvider and
            DatabaseProvider are added unless the list has providers with these names.
        settings: ready settings, instead of reading any.
        arguments: values that override the environment, ``.env`` and YAML.
        environ: variables to read instead of the process's own.
        directory: where ``.env`` and YAML are, instead of the working directory or ``PREFIQ_SETTINGS_DIR``.

    Raises:
        SettingsError: the settings are wrong; the message lists every problem, and nothing was connected.
        UsageError: a database is asynchronous: use ``await bootstrap_async()``.
        ProviderError: a provider failed; those that had booted were shut down again.
    """
    try:
        app = assemble(
            providers=providers, settings=settings, arguments=arguments, environ=environ, directory=directory
        )
        app.boot()
    except BaseException as error:
        del arguments, environ
        hush(error)
        raise
    return app


async def bootstrap_async(
    *,
    providers: Providers | None = None,
    settings: Settings | None = None,
    arguments: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Application:
    """Return a booted application, as :func:`bootstrap` does, with databases of both modes."""
    try:
        app = assemble(
            providers=providers, settings=settings, arguments=arguments, environ=environ, directory=directory
        )
        await app.boot_async()
    except BaseException as error:
        del arguments, environ
        hush(error)
        raise
    return app


def assemble(
    *,
    providers: Providers | None = None,
    settings: Settings | None = None,
    arguments: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Application:
    """Return an application with its providers registered and nothing started; arguments as for :func:`bootstrap`."""
    chosen = list(default_registry if providers is None else providers)
    for default in (DatabaseProvider, SettingsProvider):
        if not any(provider.name == default.name for provider in chosen):
            chosen.insert(0, default)
    given: dict[str, Any] = {"settings": settings, "arguments": arguments, "environ": environ, "directory": directory}
    given = {name: value for name, value in given.items() if value is not None}
    app = Application()
    for provider in chosen:
        if provider.name != SettingsProvider.name or not given:
            app.register(provider)
        elif isinstance(provider, type) and issubclass(provider, SettingsProvider):
            app.register(provider(**given))
        else:
            raise UsageError(f"{', '.join(given)}: give them to the settings provider that you pass in `providers`")
    return app
