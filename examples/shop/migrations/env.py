"""Alembic runs this file for each command; settings in the environment name the database."""

from prefiq_db.migrate import run
from shop.tables import metadata

run(metadata)
