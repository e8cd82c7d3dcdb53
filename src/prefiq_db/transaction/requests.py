"""The transactions of one request, seen alike by all the threads and copies of the context that work for it.

A web framework may run a dependency in one thread, the endpoint in another and the end of both in a third, each with
its own copy of the context. What one of them sets in its copy, the others don't see. So the context holds one mutable
object, put there before anything is copied.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

from prefiq_db.errors import TransactionOwnershipError
from prefiq_db.instance import Instance
from prefiq_db.transaction.block import Block
from prefiq_db.transaction.scope import Scope


class RequestTransactions:
    """The transactions of a request: the one on each database that all of it runs in, and those opened beside it."""

    def __init__(self) -> None:
        self._shared: dict[Instance, Scope[Block]] = {}
        self._opened: dict[Instance, tuple[Scope[Block], int]] = {}

    def share(self, block: Block) -> None:
        """Let the whole request run in the transaction *block*, which the caller begins, ends and hands on.

        In the sync API that is every thread of the request. In the async API the task that began it uses it, as ever:
        a task that is started beside it must not write into a transaction that may be over at any moment.
        """
        scope = block.scope
        scope.explicit_uses += 1  # it is left where the response is sent, perhaps in another context
        if not block.instance.runtime.is_async:
            self._shared[block.instance] = scope

    def opened(self, scope: Scope[Block]) -> None:
        """Note a transaction that a thread of the request opened; in an event loop the context itself tells."""
        if not scope.instance.runtime.is_async and not asyncio._get_running_loop():
            self._opened[scope.instance] = scope, threading.get_ident()

    def ambient(self, instance: Instance) -> Scope[Block] | None:
        """Return the transaction that a thread of the request runs in, which has none of its own.

        Raises:
            TransactionOwnershipError: a dependency of the request, say, has yielded with a transaction open; a
                statement here would be outside it.
        """
        scope = self._shared.get(instance)
        if scope is not None and not scope.finished:
            return scope
        self.check_none_left(
            instance,
            "a statement here would be outside it, and stay committed when it is rolled back; let the request have it "
            "(docs/requests.md), or use its tx: tx.execute(), tx.bind()",
        )
        return None

    def check_none_left(self, instance: Instance, why: str) -> None:
        """Raise if a generator, such as a dependency, has yielded with a transaction open; *why* is said of it."""
        scope, thread = self._opened.get(instance, (None, 0))
        if scope is None or scope.finished or self._shared.get(instance) is scope or _runs(scope, thread):
            return
        raise TransactionOwnershipError(
            f"a transaction on database {instance.name} was left open by a part of this request that has yielded: "
            f"{why}",
            database=instance.name,
        )


def _runs(scope: Scope[Block], thread: int) -> bool:
    """Return whether the function that opened the transaction is running in its thread, rather than suspended."""
    line = scope.state.checkout.line
    frame: FrameType | None = sys._current_frames().get(thread)
    while line is not None and frame is not None:
        if frame.f_code is line[0]:
            return True
        frame = frame.f_back
    return line is None


#: the transactions of the request that the code here works for, if that is known
request_here: ContextVar[RequestTransactions | None] = ContextVar("prefiq_db_request", default=None)


@contextmanager
def within_request(transactions: RequestTransactions) -> Iterator[None]:
    """Note in the context that the code in the block, and all that inherits it, works for one request."""
    before = request_here.get()
    request_here.set(transactions)
    try:
        yield
    finally:
        request_here.set(before)
