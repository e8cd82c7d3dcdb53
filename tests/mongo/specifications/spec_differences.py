"""Where our mapping does something else than a specification test says, on purpose: by name, with the reason.

Such a test runs, too, and must differ: an entry that is no longer true fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_UNTIL_TIME_IS_UP = (
    "within a time limit PyMongo repeats a numbered write until the limit, not once (Client Side Operations Timeout); "
    "decision 0141"
)
_COMMIT_UNTIL_ANSWERED = (
    "an unanswered COMMIT is repeated until it is answered or the limits end it, not once; decision 0142"
)
_NO_BACKPRESSURE = (
    "PyMongo's retries of reads are off, and ours don't run a statement of a transaction again: an overloaded server "
    "ends the transaction"
)

_OWN_SESSION = "each transaction of ours has a session of its own, so it says no cluster time to be after"

DIFFERENCES: Final[Mapping[str, str]] = {
    "retryable_writes/bulkWrite: First insertOne is never committed": _UNTIL_TIME_IS_UP,
    "retryable_writes/bulkWrite-serverErrors: BulkWrite fails with a RetryableWriteError label after two connection "
    "failures": _UNTIL_TIME_IS_UP,
    "retryable_writes/deleteOne: DeleteOne is never committed": _UNTIL_TIME_IS_UP,
    "retryable_writes/deleteOne-serverErrors: DeleteOne fails with RetryableWriteError label after two connection "
    "failures": _UNTIL_TIME_IS_UP,
    "retryable_writes/insertMany-serverErrors: InsertMany fails with a RetryableWriteError label after two connection "
    "failures": _UNTIL_TIME_IS_UP,
    "retryable_writes/insertOne: InsertOne is never committed": _UNTIL_TIME_IS_UP,
    "retryable_writes/insertOne-errorLabels: InsertOne fails after multiple retryable "
    "writeConcernErrors": _UNTIL_TIME_IS_UP,
    "retryable_writes/insertOne-noWritesPerformedError: InsertOne fails after NoWritesPerformed "
    "error": _UNTIL_TIME_IS_UP,
    "retryable_writes/insertOne-serverErrors: InsertOne fails with a RetryableWriteError label after two connection "
    "failures": _UNTIL_TIME_IS_UP,
    "retryable_writes/updateOne: UpdateOne is never committed": _UNTIL_TIME_IS_UP,
    "retryable_writes/updateOne: UpdateOne with upsert is never committed": _UNTIL_TIME_IS_UP,
    "retryable_writes/updateOne-serverErrors: UpdateOne fails with a RetryableWriteError label after two connection "
    "failures": _UNTIL_TIME_IS_UP,
    "transactions/retryable-abort: abortTransaction only performs a single retry": _UNTIL_TIME_IS_UP,
    "transactions/retryable-abort-errorLabels: abortTransaction only retries once with RetryableWriteError from "
    "server": _UNTIL_TIME_IS_UP,
    "transactions-convenient-api/commit-writeconcernerror: commitTransaction is not retried after MaxTimeMSExpired "
    "error": _COMMIT_UNTIL_ANSWERED,
    "transactions/error-labels: add RetryableWriteError and UnknownTransactionCommitResult labels to connection "
    "errors": _COMMIT_UNTIL_ANSWERED,
    "transactions/error-labels-errorLabels: add RetryableWriteError and UnknownTransactionCommitResult labels to "
    "retryable commit errors": _COMMIT_UNTIL_ANSWERED,
    "transactions/retryable-commit: commitTransaction fails after two errors": _COMMIT_UNTIL_ANSWERED,
    "transactions/commit: commit": _OWN_SESSION,
    "transactions/backpressure-retryable-reads: reads are retried if backpressure labels are added": _NO_BACKPRESSURE,
    "transactions/backpressure-retryable-reads: reads are retried maxAttempts=2 times if backpressure labels are "
    "added": _NO_BACKPRESSURE,
}
