"""How a database writes, claims and deletes commit tokens; their purpose: :mod:`prefiq_db.exactly_once`.

Tokens are UUIDs that we made or checked, so they can be literals in the SQL text.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Final

TABLE: Final = "prefiq_commit_token"
WORK: Final = "work"
ABANDONED: Final = "abandoned"


class TokenDialect:
    """Mixed into our dialects: the differences between databases in handling tokens."""

    @abstractmethod
    def control(self, dbapi_connection: Any, sql: str) -> str | None: ...

    @abstractmethod
    def ask(self, dbapi_connection: Any, sql: str) -> list[Any]: ...

    @property
    def token_rides_with_begin(self) -> bool:
        """Whether the token is part of BEGIN's message; else it follows at once, in a message of its own."""
        return False

    def token_sql(self, token: str, written_as: str = WORK) -> str:
        """Return the INSERT of a token."""
        return f"INSERT INTO {TABLE} (token, written_as) VALUES ('{token}', '{written_as}')"

    def write_as_sql(self, token: str) -> str:
        """Return the SELECT that shows what a token was written as."""
        return f"SELECT written_as FROM {TABLE} WHERE token = '{token}'"

    def claim(self, dbapi_connection: Any, token: str, wait_seconds: float) -> str | None:
        """Insert *token* as abandoned and commit; return what the row that exists then was written as.

        If an open transaction has inserted it, wait for that one at most *wait_seconds*, then fail with a lock timeout.
        """
        raise NotImplementedError

    def end_holder(self, dbapi_connection: Any, token: str) -> bool:
        """End the session that provably holds *token* in an open transaction; return whether there was one.

        Call it on another connection while a claim waits.
        """
        return False

    def prune_sql(self, age_seconds: float, limit: int) -> str:
        """Return a DELETE of at most *limit* tokens that are older than *age_seconds* by the server's clock."""
        raise NotImplementedError


def first_word(rows: list[Any]) -> str | None:
    """Return the value in the first column of the first row, or ``None`` without rows."""
    return str(rows[0][0]) if rows else None
