"""Transactions: one pinned connection, the blocks nested on it, and who may use it."""

from __future__ import annotations

from prefiq_db.reports import Outcome
from prefiq_db.transaction.block import RUN_AGAIN, Block
from prefiq_db.transaction.burst_block import BurstBlock
from prefiq_db.transaction.burst_savepoint import BurstSavepoint
from prefiq_db.transaction.options import PLAIN, TransactionOptions, check_timeout, make_options
from prefiq_db.transaction.ownership import (
    NO_TRANSACTIONS,
    Binding,
    ambient,
    is_adopted,
    open_here,
    transactions_here,
)
from prefiq_db.transaction.reading import ReadBlock
from prefiq_db.transaction.requests import RequestTransactions, of_another_tenant, request_here, within_request
from prefiq_db.transaction.root import RootBlock
from prefiq_db.transaction.savepoint import Savepoint
from prefiq_db.transaction.scope import Scope

__all__ = [
    "NO_TRANSACTIONS",
    "PLAIN",
    "RUN_AGAIN",
    "Binding",
    "Block",
    "BurstBlock",
    "BurstSavepoint",
    "Outcome",
    "ReadBlock",
    "RequestTransactions",
    "RootBlock",
    "Savepoint",
    "Scope",
    "TransactionOptions",
    "ambient",
    "check_timeout",
    "is_adopted",
    "make_options",
    "of_another_tenant",
    "open_here",
    "request_here",
    "transactions_here",
    "within_request",
]
