"""What MongoDB's error labels mean: the server says by them what may be done again, whatever the code.

Source: the driver specifications "Transactions", "Retryable Writes" and "Client Backpressure". ``NetworkTimeout`` and
``WriteConcernError`` are classes of PyMongo that tell more than their code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from prefiq_db.errors import ErrorClass, ErrorKind
from prefiq_db.translation.classify import UNANSWERED, Phase, in_phase, treatment

TRANSIENT_TRANSACTION: Final = "TransientTransactionError"
UNKNOWN_COMMIT: Final = "UnknownTransactionCommitResult"
NO_WRITES: Final = "NoWritesPerformed"
# Both together: the server refused the operation before anything of it ran.
_OVERLOADED: Final = frozenset({"SystemOverloadedError", "RetryableError"})


def apply_labels(found: ErrorClass, labels: frozenset[str], phase: Phase) -> ErrorClass:
    """Return what an error of class *found* with *labels* means in *phase*."""
    if UNKNOWN_COMMIT in labels:
        return treatment(ErrorKind.OUTCOME_UNKNOWN)
    if "NetworkTimeout" in labels:
        found = in_phase(UNANSWERED, phase)
        if TRANSIENT_TRANSACTION not in labels:
            return found
    if TRANSIENT_TRANSACTION in labels:
        return replace(found, transient=True, retry_statement=False, retry_transaction=True)
    if NO_WRITES in labels or labels >= _OVERLOADED:
        return replace(found, transient=True, retry_statement=True, retry_transaction=True)
    # The write was done on the primary; that enough copies have it is not known.
    return ErrorClass(ErrorKind.OUTCOME_UNKNOWN) if "WriteConcernError" in labels else found
