"""The place that old pickles of settings name; new ones name :mod:`prefiq_db.settings`, which every release has.

A pickle may cross releases: a job queue keeps it, and while a deployment runs, old and new processes share it.
"""

from __future__ import annotations

from prefiq_db.settings.database_settings import DatabaseSettings as DatabaseSettings
