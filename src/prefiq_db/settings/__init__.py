"""Typed settings of databases and namespaces: validated, all problems reported at once, no value ever shown.

:class:`DatabaseSettings` describes one database and never reads the environment. Only :func:`load_settings` does: it
merges YAML, ``.env``, the environment and arguments, the later over the earlier, and returns :class:`Settings`.
``docs/settings.md`` lists every option, and how the layers are merged.
"""

from __future__ import annotations

from prefiq_db.settings.database_settings import DatabaseSettings
from prefiq_db.settings.database_settings import _new_settings as _new_settings
from prefiq_db.settings.loaded import Settings
from prefiq_db.settings.loading import load_settings

__all__ = ["DatabaseSettings", "Settings", "load_settings"]
