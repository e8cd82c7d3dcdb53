"""Providers: the parts of a service that the container starts and stops."""

from prefiq_db.providers.base_provider import BaseProvider
from prefiq_db.providers.database_provider import DatabaseProvider
from prefiq_db.providers.provider_registry import ProviderRegistry, default_registry, register_provider
from prefiq_db.providers.settings_provider import SettingsProvider

__all__ = [
    "BaseProvider",
    "DatabaseProvider",
    "ProviderRegistry",
    "SettingsProvider",
    "default_registry",
    "register_provider",
]
