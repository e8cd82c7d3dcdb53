"""Alembic runs this for each command; what it does is in prefiq_db.migrate.environment."""

from prefiq_db.migrate import VERSION_TABLE, run

run(version_table=VERSION_TABLE)
