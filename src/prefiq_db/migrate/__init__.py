"""Migrations that any number of deployers can run at once: prefiq_db's own tables, and those of a service."""

from prefiq_db.migrate.environment import run
from prefiq_db.migrate.history import VERSION_TABLE
from prefiq_db.migrate.location import migrations_directory
from prefiq_db.migrate.migrate_options import MigrateOptions
from prefiq_db.migrate.readiness import HeadReport, Revisions, at_head, at_head_async
from prefiq_db.migrate.run_log import LOG_TABLE
from prefiq_db.migrate.text_decimals import decimals_to_numbers

__all__ = [
    "LOG_TABLE",
    "VERSION_TABLE",
    "HeadReport",
    "MigrateOptions",
    "Revisions",
    "at_head",
    "at_head_async",
    "decimals_to_numbers",
    "migrations_directory",
    "run",
]
