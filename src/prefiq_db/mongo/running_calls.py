"""Which call the code here carries out: PyMongo's listeners find it in the context, in threads and in tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from prefiq_db.call import NO_OVERRIDES, Call, Overrides, call_ids
from prefiq_db.deadline import Deadline, own_deadline
from prefiq_db.dialects.session import SessionState
from prefiq_db.tags import NO_TAGS
from prefiq_db.translation.classify import Phase


class DocumentCall(Call):
    """One call of a document verb, and the note of its first attempt: see :class:`Note`.

    It has what calls of all databases have, and nothing of what a statement is.
    """

    __slots__ = ("done", "pending", "phase", "retry_number", "sent", "state", "transaction_id")

    def __init__(self, verb: str, given: Overrides) -> None:
        # Not by the base class: what it prepares for SQL takes as long as all of this.
        self.id: int = next(call_ids)
        self.verb = verb
        self.given = given
        self.attempts = self.retry_number = self.sent = self.done = 0
        self.last = False
        self.started = time.monotonic()
        self.line = None
        self.tags: Mapping[str, str] = NO_TAGS
        self.deadline: Deadline | None = None
        self.transaction_id: int | None = None
        self.state: SessionState | None = None
        self.pending: Any = None
        self.phase: Phase = "statement"
        if given is not NO_OVERRIDES:
            self.tags = given.tags or NO_TAGS
            self.deadline = own_deadline(given.timeout, self.started)


class Note:
    """What the listeners and the one who asks tell each other about one attempt of a call.

    Attributes:
        id: of the call; ``None`` for commands that no verb asked for: COMMIT, for example.
        tags: of the call.
        transaction_id: the transaction that it runs in, or ``None``.
        retry_number: 0 for the first attempt.
        sent: how many commands were sent: with none of them, nothing can have happened.
        done: how many of them the server carried out: a bulk is several commands, and an error of a later one says
            nothing about those before.
        state: the state of the connection that it has, if it has one now.
        pending: the command that was sent and is not answered yet, as the observer of commands keeps it. There is at
            most one: whatever a listener starts, and PyMongo's own tasks, run outside of the attempt.
        phase: where an error of it happens.
    """

    __slots__ = ("done", "id", "pending", "phase", "retry_number", "sent", "state", "tags", "transaction_id")

    def __init__(self, call: Call | None, transaction_id: int | None = None, retry_number: int = 0) -> None:
        self.id = None if call is None else call.id
        self.tags = NO_TAGS if call is None else call.tags
        self.transaction_id = transaction_id
        self.retry_number = retry_number
        self.sent = self.done = 0
        self.state: SessionState | None = None
        self.pending: Any = None
        self.phase: Phase = "statement"


#: The note of one attempt.
Attempt: TypeAlias = Note | DocumentCall

#: the attempt that the code here carries out; ``None`` in what uses PyMongo's own objects
running: ContextVar[Attempt | None] = ContextVar("prefiq_db_mongo_call", default=None)


def worker_name() -> object:
    """Return what the watcher calls the running task or thread by."""
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task.get_name()
    return threading.get_ident()
