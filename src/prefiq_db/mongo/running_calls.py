"""Which call the code here carries out: PyMongo's listeners find it in the context, in threads and in tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar

from prefiq_db.call import NO_OVERRIDES, Call, Overrides, call_ids
from prefiq_db.deadline import Deadline, own_deadline
from prefiq_db.dialects.session import SessionState
from prefiq_db.tags import NO_TAGS
from prefiq_db.translation.classify import Phase


class DocumentCall(Call):
    """One call of a document verb. It has what calls of all databases have, and nothing of what a statement is."""

    __slots__ = ()

    def __init__(self, verb: str, given: Overrides) -> None:
        # Not by the base class: what it prepares for SQL takes as long as all of this.
        self.id = next(call_ids)
        self.verb = verb
        self.given = given
        self.attempts = 0
        self.last = False
        self.started = time.monotonic()
        self.tags: Mapping[str, str] = NO_TAGS
        self.deadline: Deadline | None = None
        if given is not NO_OVERRIDES:
            self.tags = given.tags or NO_TAGS
            self.deadline = own_deadline(given.timeout, self.started)


class Note:
    """What the listeners and the one who asks tell each other about one attempt of a call.

    Attributes:
        call: the call; ``None`` for commands that no verb asked for: COMMIT, for example.
        transaction_id: the transaction that it runs in, or ``None``.
        retry_number: 0 for the first attempt.
        sent: how many commands were sent: with none of them, nothing can have happened.
        state: the state of the connection that it has, if it has one now.
        phase: where an error of it happens.
    """

    __slots__ = ("call", "phase", "retry_number", "sent", "state", "transaction_id")

    def __init__(self, call: Call | None, transaction_id: int | None = None, retry_number: int = 0) -> None:
        self.call = call
        self.transaction_id = transaction_id
        self.retry_number = retry_number
        self.sent = 0
        self.state: SessionState | None = None
        self.phase: Phase = "statement"

    def told_phase(self) -> Phase:
        """Return the phase, for :meth:`~prefiq_db.translation.border.Border.cross`."""
        return self.phase


#: the attempt that the code here carries out; ``None`` in what uses PyMongo's own objects
running: ContextVar[Note | None] = ContextVar("prefiq_db_mongo_call", default=None)


def worker_name() -> object:
    """Return what the watcher calls the running task or thread by."""
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task.get_name()
    return threading.get_ident()
