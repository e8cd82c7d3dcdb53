"""The names of the databases that tests make: by them we know what may be dropped."""

from __future__ import annotations

import re
import secrets
from typing import Final

from prefiq_db.errors import UsageError

#: The prefix of every database that we create; we never drop any other.
DATABASE_PREFIX: Final = "prefiq_test_"


def new_database_name() -> str:
    """Return a random name that starts with :data:`DATABASE_PREFIX`."""
    return f"{DATABASE_PREFIX}{secrets.token_hex(6)}"


def check_ours(database: str) -> str:
    """Return *database*, or raise if its name isn't one of ours."""
    if not re.fullmatch(rf"{DATABASE_PREFIX}[0-9a-f]+", database):
        raise UsageError(f"only databases called {DATABASE_PREFIX}... may be emptied or dropped")
    return database
