"""One database in this process: its parts, assembled once, and whether it is closed.

Why it is one object: decisions/0112-why-a-database-is-one-instance.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from prefiq_db.bridge import Runtime
from prefiq_db.config import Target
from prefiq_db.exactly_once import Pruner, Resolver
from prefiq_db.execution.direct import DirectRoad
from prefiq_db.execution.target_tables import TargetTables
from prefiq_db.forks import in_child
from prefiq_db.hooks.calls import CALL_EVENTS
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.explainer import Explainer
from prefiq_db.insight.statement_observer import StatementObserver
from prefiq_db.memory import Memory
from prefiq_db.pool.watchdog import watchdog
from prefiq_db.pool.watcher import ConnectionWatcher
from prefiq_db.readers import Node, Readers
from prefiq_db.retry_budget import RetryBudget
from prefiq_db.settings import DatabaseSettings
from prefiq_db.tenants import TenantPools


@dataclass(eq=False, repr=False)
class Instance:
    """The parts of one database, shared by all its views. Ambient transactions and overrides are kept per instance.

    Attributes:
        target: where it is.
        async_engine: SQLAlchemy's ``AsyncEngine`` over ``engine`` in async mode, else ``None``.
        road: checks out connections and runs statements on them.
        explainer: asks for plans of slow statements, if the settings enable it.
        resolver: finds out whether a transaction with a token was committed when the reply to COMMIT was lost.
        pruner: removes old tokens, after transactions that had one.
        statement_timeout_seconds: how long a statement may take unless it has a timeout of its own.
        commit_budget_seconds: how long COMMIT, the resolution of its outcome and the ``on_commit`` functions may
            continue after a cancellation.
        closing: whether closing was begun and interrupted; ``close()`` continues it.
        has_tokens: whether a token was written, so that the token table is known to exist.
        tables: the tables that verbs were given by name, as the database describes them.
        needs_tokens: whether ``exactly_once`` was requested, so that the token table has to exist.
        tenant: the name of a tenant's database; ``None``: the one of the settings.
        node: what is known of it as a replica; ``None``: it is none.
        readers: of the origin, its replicas, if it has any.
        origin: the instance of the database of the settings, whose overrides and ambient transaction hold here, too.
        tenants: of the origin, the databases of its tenants.
        has_tenants: whether the origin was asked for a tenant's database, so that each call looks whose it is.
        schema_tables: like *tables*, for each schema that is a tenant's namespace.
        sends_plainly: whether a statement by itself needs nothing but to be sent: nobody needs a transaction for a time
            limit, has to know how far the primary is after it, or looks which of several hosts it is on.
        is_usual: the same, and nobody hears of calls or wants plans. Looked up when a listener comes or goes.
        tells_inserted: by a table's name, whether the server tells an inserted row from an updated one.
    """

    settings: DatabaseSettings
    target: Target
    name: str
    runtime: Runtime
    hooks: Hooks
    observer: StatementObserver
    watcher: ConnectionWatcher
    engine: Engine
    async_engine: Any
    road: DirectRoad
    retry_budget: RetryBudget
    explainer: Explainer | None
    resolver: Resolver
    pruner: Pruner
    tenant: str | None = None
    node: Node[Instance] | None = None
    origin: Instance = field(default=None)  # type: ignore[assignment]  # __post_init__ sets it
    statement_timeout_seconds: float = field(init=False)
    commit_budget_seconds: float = field(init=False)
    closed: bool = field(default=False, init=False)
    closing: bool = field(default=False, init=False)
    has_tokens: bool = field(default=False, init=False)
    needs_tokens: bool = field(default=False, init=False)
    tables: TargetTables = field(default_factory=TargetTables, init=False)
    tells_inserted: Memory[bool] = field(default_factory=lambda: Memory(256), init=False)
    tenants: TenantPools[Instance] = field(init=False)
    has_tenants: bool = field(default=False, init=False)
    readers: Readers[Instance] | None = field(default=None, init=False)
    schema_tables: Memory[TargetTables] = field(default_factory=lambda: Memory(256), init=False)
    sends_plainly: bool = field(default=False, init=False)
    is_usual: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        mine: Any = self
        if mine.origin is None:
            mine.origin = self
        self.statement_timeout_seconds = settings.statement_timeout_seconds
        self.commit_budget_seconds = (
            settings.statement_timeout_seconds + settings.retry.total_seconds + settings.connect_timeout_seconds
        )
        self.watcher.start_with(watchdog.watch)
        in_child(self, Instance.forget_after_fork)
        # In this order: another thread may add a listener in between.
        self.hooks.on_change(self._look_up)
        self._look_up()

    def _look_up(self) -> None:
        settings = self.settings
        self.sends_plainly = (
            not settings.pgbouncer
            and not settings.replicas  # a write notes how far the primary is
            and not self.engine.dialect.follows_primary  # type: ignore[attr-defined]  # the pool looks which host it is
        )
        self.is_usual = self.sends_plainly and self.explainer is None and self.hooks.wanted.isdisjoint(CALL_EVENTS)

    def tables_in(self, schema: str | None) -> TargetTables:
        """Return what is known of the tables of *schema*; ``None``: the session's own."""
        if schema is None:
            return self.tables
        known = self.schema_tables.kept.get(schema)
        return self.schema_tables.keep(schema, TargetTables(schema), schema) if known is None else known

    def close(self) -> None:
        """Close the pool's connections, and everything else that the connector holds."""
        self.closed = self.closing = True
        if self.origin is self:
            self.tenants.close()
            if self.readers is not None:
                self.readers.close(Instance.close)
        watchdog.forget(self.watcher)
        self.watcher.start_with(watchdog.watch)
        # When it is opened again, what is known of its hosts may be hours old.
        self.engine.dialect.doubt_host(is_no_news=False)  # type: ignore[attr-defined]  # our dialects have it
        pool: Any = self.engine.pool
        pool.close_returning(True)  # what is in use now is closed when it comes back
        self.engine.dispose()
        self.engine.pool.close_returning(False)  # type: ignore[attr-defined]  # the new one, for open()
        connector: Any = self.engine.dialect.connector  # type: ignore[attr-defined]
        if hasattr(connector, "close"):
            connector.close()
        self.closing = False

    def forget_after_fork(self) -> None:
        """Start with an empty pool in a forked child; the parent's sockets are neither used nor closed."""
        # Kept alive on purpose: garbage-collecting an asyncio transport would unregister the parent's socket from
        # the event loop's epoll, which parent and child share.
        _of_the_parent.append(self.engine.pool)
        self.engine.dispose(close=False)
        self.watcher.start_with(watchdog.watch)


_of_the_parent: list[object] = []
