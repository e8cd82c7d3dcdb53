"""What ``Database`` and ``AsyncDatabase`` do, once for both worlds."""

from __future__ import annotations

from prefiq_db.core.attempts import AttemptCore, Attempts, begin_attempts
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
from prefiq_db.core.transaction_core import TransactionCore
from prefiq_db.core.verbs import CoreVerbs, Params

__all__ = [
    "AttemptCore",
    "Attempts",
    "CoreVerbs",
    "DatabaseCore",
    "Life",
    "Params",
    "QuietSession",
    "TransactionCore",
    "as_settings",
    "begin_attempts",
    "joined",
    "make_explainer",
    "make_observer",
    "not_yet",
    "quiet",
    "unpicklable",
    "wraps_without_tx",
]
