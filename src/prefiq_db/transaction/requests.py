"""The transactions of one request, seen alike by all the threads and copies of the context that work for it.

A web framework may run a dependency in one thread, the endpoint in another and the end of both in a third, each with
its own copy of the context. What one of them sets in its copy, the others don't see. So the context holds one mutable
object, put there before anything is copied.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import Any
from weakref import ReferenceType, ref

from prefiq_db.errors import NestingError, TransactionOwnershipError
from prefiq_db.instance import Instance
from prefiq_db.marks import Seen, seen_here, share
from prefiq_db.transaction.block import Block
from prefiq_db.transaction.scope import Scope


class RequestTransactions:
    """The transactions of a request: the one on each database that all of it runs in, and all that it opened beside it.

    Whatever task, thread or copy of the context of the request opens a transaction or a session, it is noted here.
    """

    def __init__(self) -> None:
        #: what was written in the request: its reads on replicas wait for that
        self.seen = Seen()
        self._own: dict[Instance, Scope[Block]] = {}
        # By the scope's id: threads note and forget at once, and each does it in one step.
        self._opened: dict[int, _Opened] = {}
        self._sessions: list[tuple[Instance, ReferenceType[object], Callable[[Any], bool]]] = []
        #: the endpoint has returned, and its response has not started
        self.has_returned = False
        #: what a statement got that was refused since then: its caller may be too late to tell the client
        self.refused: TransactionOwnershipError | None = None

    def share(self, block: Block) -> None:
        """Let the whole request run in the transaction *block*, which the caller begins, ends and hands on.

        In the sync API that is every thread of the request. In the async API the task that began it uses it, as ever:
        a task that is started beside it must not write into a transaction that may be over at any moment.
        """
        scope = block.scope
        scope.explicit_uses += 1  # it is left where the response is sent, perhaps in another context
        self._own[block.instance.origin] = scope

    def own(self, instance: Instance) -> Scope[Block] | None:
        """Return the one that all of the request runs in, if it is open."""
        scope = self._own.get(instance.origin)
        return None if scope is None or scope.finished else scope

    def opened(self, scope: Scope[Block]) -> None:
        """Note a transaction that a task or thread of the request opened."""
        task = asyncio.current_task() if asyncio._get_running_loop() else None
        frame = _callers_frame() if task is None else None
        self._opened[id(scope)] = _Opened(scope, threading.get_ident(), task, frame)

    def closed(self, scope: Scope[Block]) -> None:
        """Forget a transaction that ends."""
        self._opened.pop(id(scope), None)

    def opened_session(self, instance: Instance, session: object, has_work: Callable[[Any], bool]) -> None:
        """Note a session; ``has_work(session)`` tells whether it has something that isn't committed."""
        self._sessions.append((instance, ref(session), has_work))

    def ambient(self, instance: Instance) -> Scope[Block] | None:
        """Return the transaction that a thread of the request runs in, which has none of its own.

        Raises:
            TransactionOwnershipError: a dependency of the request, say, has yielded with a transaction open, or the
                request's own belongs to another task; a statement here would be outside it.
        """
        scope = self.own(instance)
        if scope is not None:
            if scope.instance is not instance:
                raise of_another_tenant(instance.name)
            if not instance.runtime.is_async:
                return scope
            raise self.note(
                TransactionOwnershipError(
                    f"the request's transaction on database {instance.name} is open in another task, and a statement "
                    "here would be outside it; do it in the endpoint, or after the response has started: in a "
                    "middleware with `send`, or in a background task (docs/requests.md)",
                    database=instance.name,
                )
            )
        for each in list(self._opened.values()):
            if each.task is None and each.is_left(instance):
                raise _left_open(
                    instance,
                    "a statement here would be outside it, and stay committed when it is rolled back; let the request "
                    "have it (docs/requests.md), or use its tx: tx.execute(), tx.bind()",
                )
        return None

    def note(self, error: TransactionOwnershipError) -> TransactionOwnershipError:
        """Return *error*; if the endpoint has returned, keep it for the client, too."""
        if self.has_returned:
            self.refused = self.refused or error
        return error

    def check_none_left(self, instance: Instance, why: str) -> None:
        """Raise if a transaction of the request is open, or a session has uncommitted work; *why* is said of it."""
        for each in list(self._opened.values()):
            if self._own.get(instance) is not each.scope and each.is_left(instance):
                raise _left_open(instance, why)
        for of, reference, has_work in self._sessions:
            session = reference()
            if of.origin is instance.origin and session is not None and has_work(session):
                raise TransactionOwnershipError(
                    f"a session on database {instance.name} has work that is not committed when the response starts: "
                    f"{why}; commit it in the endpoint, or in a dependency with scope='function'",
                    database=instance.name,
                )


def of_another_tenant(database: str) -> NestingError:
    """Return the error for a call that isn't for the tenant whose transaction is open."""
    return NestingError(
        f"the transaction that is open on database {database} is not of the schema or database that this call is for: "
        "it would run outside of it, or in the wrong one; end the transaction first, or give both the same override",
        database=database,
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    """A transaction of a request, and who opened it.

    Attributes:
        task: ``None``: a thread without an event loop opened it.
        frame: of the function in that thread that opened it.
    """

    scope: Scope[Block]
    thread: int
    task: asyncio.Task[Any] | None
    frame: FrameType | None

    def is_left(self, instance: Instance) -> bool:
        """Return whether it is open on *instance*, and who opened it isn't just running in it."""
        if self.scope.instance.origin is not instance.origin or self.scope.finished:
            return False
        return not (self._runs_in_thread() if self.task is None else self._runs_in_task(self.task))

    def _runs_in_thread(self) -> bool:
        frame: FrameType | None = sys._current_frames().get(self.thread)
        while frame is not None:
            if frame is self.frame:
                return True
            frame = frame.f_back
        return False

    def _runs_in_task(self, task: asyncio.Task[Any]) -> bool:
        # A task is never used again, so here the code tells which function it is. One that has yielded isn't awaited.
        line = self.scope.state.checkout.line
        awaited: Any = task.get_coro()
        while awaited is not None and line is not None and not task.done():
            if getattr(awaited, "cr_code", None) is line[0]:
                return True
            awaited = getattr(awaited, "cr_await", None)
        return False


def _callers_frame() -> FrameType | None:
    """Return the frame of the function outside of this package that called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("prefiq_db", "contextlib"):
        frame = frame.f_back
    return frame


def _left_open(instance: Instance, why: str) -> TransactionOwnershipError:
    return TransactionOwnershipError(
        f"a transaction on database {instance.name} was left open by a part of this request that has yielded: {why}",
        database=instance.name,
    )


#: the transactions of the request that the code here works for, if that is known
request_here: ContextVar[RequestTransactions | None] = ContextVar("prefiq_db_request", default=None)


@contextmanager
def within_request(transactions: RequestTransactions) -> Iterator[None]:
    """Note in the context that the code in the block, and all that inherits it, works for one request."""
    before = request_here.get()
    request_here.set(transactions)
    outer = seen_here()
    share(transactions.seen)
    try:
        yield
    finally:
        request_here.set(before)
        share(outer)
