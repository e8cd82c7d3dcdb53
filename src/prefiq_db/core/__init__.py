"""The shared implementation of ``Database`` and ``AsyncDatabase``."""

from __future__ import annotations

from prefiq_db.core.assembly import assemble
from prefiq_db.core.attempts import AttemptCore, Attempts, begin_attempts
from prefiq_db.core.bulk_insert import Progress, Request
from prefiq_db.core.database_core import DatabaseCore
from prefiq_db.core.quiet_session import QuietSession, quiet
from prefiq_db.core.sessions import engine_of, join_options, note_session
from prefiq_db.core.signatures import wraps_without_tx
from prefiq_db.core.streams import ReadStream, StreamCore
from prefiq_db.core.transaction_core import TransactionCore
from prefiq_db.core.unsupported import unpicklable
from prefiq_db.core.verbs import CoreVerbs, Params

__all__ = [
    "AttemptCore",
    "Attempts",
    "CoreVerbs",
    "DatabaseCore",
    "Params",
    "Progress",
    "QuietSession",
    "ReadStream",
    "Request",
    "StreamCore",
    "TransactionCore",
    "assemble",
    "begin_attempts",
    "engine_of",
    "join_options",
    "note_session",
    "quiet",
    "unpicklable",
    "wraps_without_tx",
]
