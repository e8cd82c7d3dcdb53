"""The words that only SQL has: on a document database each names the word to use instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from prefiq_db.errors import UnsupportedError

_INSTEAD: Final = {
    "fetch_all": "find(collection, filter), or aggregate(collection, pipeline)",
    "fetch_one": "find_one(collection, filter)",
    "fetch_exactly_one": "find_one(collection, filter), which returns None if there is none",
    "fetch_value": "find_one(collection, filter, projection), or count(collection, filter)",
    "execute": "insert(), update() or delete()",
    "execute_many": "insert_many(), or bulk_write()",
    "batch": "bulk_write(collection, operations), or a transaction()",
    "bulk_insert": "insert_many(collection, documents)",
    "session": "the verbs; there is no ORM here",
    "resolve_outcome": "nothing: the COMMIT of a transaction is repeated until its outcome is known",
}


def sql_only(name: str) -> Callable[..., NoReturn]:
    """Return a method *name* that raises UnsupportedError, which names the document verb."""

    def refuse(self: Any, *args: Any, **options: Any) -> NoReturn:
        raise UnsupportedError(
            f"{name}() is for SQL, and database {self._core.name} keeps documents: use {_INSTEAD[name]}",
            database=self._core.name,
        )

    refuse.__name__ = name
    refuse.__doc__ = f"Raise UnsupportedError: use {_INSTEAD[name]}."
    return refuse


class SqlWords:
    """What code for SQL would call."""

    fetch_all = sql_only("fetch_all")
    fetch_one = sql_only("fetch_one")
    fetch_exactly_one = sql_only("fetch_exactly_one")
    fetch_value = sql_only("fetch_value")
    execute = sql_only("execute")
    execute_many = sql_only("execute_many")
    batch = sql_only("batch")
    bulk_insert = sql_only("bulk_insert")
    session = sql_only("session")
    resolve_outcome = sql_only("resolve_outcome")

    _core: Any  # it has the database's name

    @property
    def engine(self) -> NoReturn:
        """Raise UnsupportedError: use ``client``."""
        raise UnsupportedError(
            f"engine is SQLAlchemy's, and database {self._core.name} keeps documents: use client or collection(name)",
            database=self._core.name,
        )
