"""How a database writes, claims and forgets commit tokens; what for: :mod:`prefiq_db.exactly_once`.

Tokens are UUIDs made or checked by us, so they stand in the text as they are.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Final

TABLE: Final = "prefiq_commit_token"
WORK: Final = "work"
ABANDONED: Final = "abandoned"


class TokenDialect:
    """Mixed into our dialects: everything about tokens that differs."""

    @abstractmethod
    def control(self, dbapi_connection: Any, sql: str) -> str | None: ...

    @abstractmethod
    def ask(self, dbapi_connection: Any, sql: str) -> list[Any]: ...

    @property
    def token_rides_with_begin(self) -> bool:
        """Whether the token is part of BEGIN's message; else it follows at once, in one of its own."""
        return False

    def token_sql(self, token: str, written_as: str = WORK) -> str:
        """Return the INSERT of a token."""
        return f"INSERT INTO {TABLE} (token, written_as) VALUES ('{token}', '{written_as}')"

    def written_as_sql(self, token: str) -> str:
        """Return the SELECT that tells who wrote a token."""
        return f"SELECT written_as FROM {TABLE} WHERE token = '{token}'"

    def claim(self, dbapi_connection: Any, token: str, wait_seconds: float) -> str | None:
        """Insert *token* as abandoned and commit that; return who wrote the row that is there then.

        An open transaction that has inserted it is waited for, at most *wait_seconds*; then it is a lock timeout.
        """
        raise NotImplementedError

    def end_holder(self, dbapi_connection: Any, token: str) -> bool:
        """End the session that holds *token* in an open transaction, if that is proven; return whether there was one.

        To be called while a claim waits, on another connection.
        """
        return False

    def prune_sql(self, age_seconds: float, limit: int) -> str:
        """Return a DELETE of at most *limit* tokens that are older than *age_seconds* by the server's clock."""
        raise NotImplementedError


def first_word(rows: list[Any]) -> str | None:
    """Return the one value of the one row, or ``None`` when there is none."""
    return str(rows[0][0]) if rows else None
