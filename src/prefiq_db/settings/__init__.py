"""Typed settings of databases and providers: validated, all problems at once, no value ever shown.

:class:`DatabaseSettings` is one database; it never reads the environment. :func:`load_settings` is the one place that
does: it lays YAML, ``.env``, the environment and arguments over each other and gives :class:`Settings`.
``docs/settings.md`` has every option, and the rules of the layers.
"""

from __future__ import annotations

from prefiq_db.settings.database_settings import DatabaseSettings
from prefiq_db.settings.loaded import Settings
from prefiq_db.settings.loading import load_settings

__all__ = ["DatabaseSettings", "Settings", "load_settings"]
