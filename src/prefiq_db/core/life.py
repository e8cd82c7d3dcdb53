"""The engine of one database and whether it is closed; what a forked child does with its copy."""

from __future__ import annotations

import os
import weakref
from typing import Any

from sqlalchemy import Engine

from prefiq_db.bridge import Runtime
from prefiq_db.hooks.connections import ConnectionWatcher
from prefiq_db.hooks.explain import Explainer
from prefiq_db.hooks.statements import StatementObserver
from prefiq_db.hooks.watchdog import watchdog
from prefiq_db.retry_budget import RetryBudget


class Life:
    """The engine of one database and whether it is closed: shared by all views of it."""

    def __init__(
        self,
        engine: Engine,
        observer: StatementObserver,
        watcher: ConnectionWatcher,
        runtime: Runtime,
        retry_budget: RetryBudget,
        explainer: Explainer | None = None,
    ) -> None:
        self.retry_budget = retry_budget
        self.engine = engine
        self.observer = observer
        self.watcher = watcher
        self.explainer = explainer
        self.runtime = runtime
        self.closed = False
        #: whether closing was begun and interrupted; close() goes on with it
        self.closing = False
        #: whether somebody asked for ``exactly_once``, so that the table of tokens has to be there
        self.needs_tokens = False
        watcher.start_with(watchdog.watch)
        _alive.add(self)

    def close(self) -> None:
        self.closed = self.closing = True
        watchdog.forget(self.watcher)
        self.watcher.start_with(watchdog.watch)
        self.engine.dispose()
        connector: Any = self.engine.dialect.connector  # type: ignore[attr-defined]
        if hasattr(connector, "close"):
            connector.close()
        self.closing = False

    def forget_after_fork(self) -> None:
        """Start with an empty pool in a forked child; the parent's sockets are neither used nor closed."""
        # Kept alive on purpose: collecting an asyncio transport would unregister the parent's socket from the event
        # loop's epoll, which parent and child share.
        _of_the_parent.append(self.engine.pool)
        self.engine.dispose(close=False)
        self.watcher.start_with(watchdog.watch)
        if hasattr(self.runtime, "loop"):
            self.runtime.loop = None


_alive: weakref.WeakSet[Life] = weakref.WeakSet()
_of_the_parent: list[object] = []


def _after_fork_in_child() -> None:
    for life in list(_alive):
        life.forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
