"""Alembic runs this for each command; the database is the one that the environment configures."""

from prefiq_db.migrate import run
from shop.tables import metadata

run(metadata)
