"""What ``Database`` and ``AsyncDatabase`` do, once for both worlds."""

from __future__ import annotations

from prefiq_db.core.attempts import AttemptCore, Attempts
from prefiq_db.core.database import DatabaseCore
from prefiq_db.core.life import Life
from prefiq_db.core.making import (
    as_settings,
    make_explainer,
    make_observer,
    not_yet,
    unpicklable,
    wraps_without_tx,
)
from prefiq_db.core.quiet_session import QuietSession, quiet
from prefiq_db.core.sessions import joined
from prefiq_db.core.verbs import TransactionVerbs

__all__ = [
    "AttemptCore",
    "Attempts",
    "DatabaseCore",
    "Life",
    "QuietSession",
    "TransactionVerbs",
    "as_settings",
    "joined",
    "make_explainer",
    "make_observer",
    "not_yet",
    "quiet",
    "unpicklable",
    "wraps_without_tx",
]
