"""What pytest collects: every test of the suite in SQLAlchemy's wheel."""

from sqlalchemy.testing.suite import *  # noqa: F403
