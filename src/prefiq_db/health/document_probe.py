"""Probe a database that keeps documents, with one command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefiq_db.deadline import Deadline
from prefiq_db.errors import ErrorKind
from prefiq_db.health.verdicts import WELL, Status, Verdict

if TYPE_CHECKING:
    from prefiq_db.mongo.mongo_core import MongoCore


def probe_documents(core: MongoCore, deadline: Deadline, *, writable: bool) -> Verdict:
    """Return the verdict on a document database, from one round trip within *deadline*.

    If all connections of the pool are in use, the server may still be up: its driver checks it all the time.
    """
    report = core.health(deadline.left(0.001), writable=writable)
    if report.healthy:
        return WELL
    if report.kind is ErrorKind.POOL_TIMEOUT:
        return Verdict(Status.WARN, f"{ErrorKind.POOL_TIMEOUT.value}: all connections are in use", report.kind)
    return Verdict(Status.FAIL, report.reason, report.kind)
