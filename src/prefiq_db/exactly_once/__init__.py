"""Exactly once: find out whether a transaction was committed, even when the reply to COMMIT is lost.

BEGIN also inserts a token into ``prefiq_commit_token``, marked ``work``, in the same message. When the reply to COMMIT
is lost, a new connection inserts the same token, marked ``abandoned``. The row that exists then decides: ``work`` means
that the transaction was committed; ``abandoned`` means that it was not and never will be, because a late COMMIT would
insert a token that exists already. Asking again, or from another process, gives the same answer.

Why not a SELECT, or the server's transaction ids: decisions/0075-why-the-token-is-claimed.md.
"""

from __future__ import annotations

from prefiq_db.exactly_once.claims import Claimer
from prefiq_db.exactly_once.pruning import Pruner
from prefiq_db.exactly_once.resolver import Resolver
from prefiq_db.exactly_once.tokens import check_token, new_token
from prefiq_db.exactly_once.words import forbidden_table, missing_table, never_committed, still_unknown

__all__ = [
    "Claimer",
    "Pruner",
    "Resolver",
    "check_token",
    "forbidden_table",
    "missing_table",
    "never_committed",
    "new_token",
    "still_unknown",
]
