"""Which call the code here carries out: PyMongo's listeners find it in the context, in threads and in tasks."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

from prefiq_db.call import Call
from prefiq_db.dialects.session import SessionState
from prefiq_db.translation.classify import Phase


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


def take_state(state: Any) -> None:
    """Tell the running attempt which connection it has; ``None``: none any more."""
    note = running.get()
    if note is not None:
        note.state = state


def worker_name() -> object:
    """Return what the watcher calls the running task or thread by."""
    if asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        if task is not None:
            return task.get_name()
    return threading.get_ident()
