"""Exactly once: whether a transaction was committed, also when nobody answered COMMIT.

BEGIN's own message inserts a token into ``prefiq_commit_token``, marked ``work``. When the reply to COMMIT is lost, a
new connection inserts the same token, marked ``abandoned``. The row says who wrote it: ``work``, so the transaction was
committed; ``abandoned``, so it was not, and never can be, because a late COMMIT would have to bring in a token that is
there already. Asking decides, which is why asking again, or from another process, gives the same answer.

Why not a SELECT, or the server's transaction ids: decisions/0075-why-the-token-is-claimed.md.
"""

from __future__ import annotations

from prefiq_db.exactly_once.claims import Claimer
from prefiq_db.exactly_once.pruning import Pruner
from prefiq_db.exactly_once.resolver import Resolver
from prefiq_db.exactly_once.tokens import checked_token, new_token
from prefiq_db.exactly_once.words import forbidden_table, missing_table, never_committed, still_unknown

__all__ = [
    "Claimer",
    "Pruner",
    "Resolver",
    "checked_token",
    "forbidden_table",
    "missing_table",
    "never_committed",
    "new_token",
    "still_unknown",
]
