"""Deliberate faults: prove that your own code survives what prefiq_db survives.

A proxy that knows the databases' protocols and breaks connections at chosen messages, and workloads that detect
whether anything was lost or done twice. See docs/testing.md.
"""

from __future__ import annotations

from prefiq_db.testing.faults.bank import Bank, InsufficientFundsError, Told, Transfer
from prefiq_db.testing.faults.bank_report import BankReport, bank_table
from prefiq_db.testing.faults.checker import check_history
from prefiq_db.testing.faults.fault_proxy import FaultProxy, FaultRecord
from prefiq_db.testing.faults.framing import Message
from prefiq_db.testing.faults.histories import Anomaly, Append, HistoryReport, HistoryTransaction, Read, forbidden
from prefiq_db.testing.faults.link import FaultyLink
from prefiq_db.testing.faults.list_append import ListAppend
from prefiq_db.testing.faults.message_faults import (
    BlackHole,
    CutReply,
    CutRequest,
    Delay,
    DeliverLate,
    Fault,
    Reset,
    Slice,
)
from prefiq_db.testing.faults.plan import ANY, CLAIM, COMMIT, STATEMENT, FaultPlan

__all__ = [
    "ANY",
    "CLAIM",
    "COMMIT",
    "STATEMENT",
    "Anomaly",
    "Append",
    "Bank",
    "BankReport",
    "BlackHole",
    "CutReply",
    "CutRequest",
    "Delay",
    "DeliverLate",
    "Fault",
    "FaultPlan",
    "FaultProxy",
    "FaultRecord",
    "FaultyLink",
    "HistoryReport",
    "HistoryTransaction",
    "InsufficientFundsError",
    "ListAppend",
    "Message",
    "Read",
    "Reset",
    "Slice",
    "Told",
    "Transfer",
    "bank_table",
    "check_history",
    "forbidden",
]
