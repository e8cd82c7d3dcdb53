"""Which statements psycopg prepares on a connection."""

from __future__ import annotations

import secrets
from typing import Any, Final

from psycopg._preparing import PrepareManager

#: In bytes. A longer text is never prepared: it is a dump or a generated list, and each connection would remember it.
LONGEST_PREPARED: Final = 50_000


class Preparing(PrepareManager):
    """Counts how often a statement comes, to prepare it later, unless its text is long; remembers a hundred of them.

    What one schema's tables and types made of a text doesn't fit another schema's: each has a prepared statement of its
    own.

    No other connection uses its names. A pooler lends a server's session to one after another, and the server would run
    whatever the name stands for there.
    """

    #: the state of the connection's transactions, once one of them has chosen a schema
    transaction: Any = None

    def __init__(self) -> None:
        super().__init__()
        self._prepared_idx = secrets.randbits(62)  # psycopg counts from 0, on each connection

    def key(self, query: Any) -> Any:  # type: ignore[override]  # psycopg calls it with its own query
        key, transaction = super().key(query), self.transaction
        return key if transaction is None or transaction.schema is None else (*key, transaction.schema)

    def maybe_add_to_cache(self, query: Any, prep: Any, name: bytes) -> Any:
        if len(query.query) > LONGEST_PREPARED:
            return None
        return super().maybe_add_to_cache(query, prep, name)
