"""What ``Database`` and ``AsyncDatabase`` do, once for both worlds."""

from __future__ import annotations

from prefiq_db.core.assembly import assemble
from prefiq_db.core.attempts import AttemptCore, Attempts
from prefiq_db.core.database import DatabaseCore
from prefiq_db.core.quiet_session import QuietSession, quiet
from prefiq_db.core.sessions import joined
from prefiq_db.core.signatures import wraps_without_tx
from prefiq_db.core.unsupported import not_yet, unpicklable
from prefiq_db.core.verbs import TransactionVerbs

__all__ = [
    "AttemptCore",
    "Attempts",
    "DatabaseCore",
    "QuietSession",
    "TransactionVerbs",
    "assemble",
    "joined",
    "not_yet",
    "quiet",
    "unpicklable",
    "wraps_without_tx",
]
