"""prefiq_db's own tables: where their migrations are, and how they are run."""

from prefiq_db.migrate.environment import VERSION_TABLE, migrate_on, run
from prefiq_db.migrate.location import migrations_directory

__all__ = ["VERSION_TABLE", "migrate_on", "migrations_directory", "run"]
