"""Assemble one database from settings or a URL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from prefiq_db.bridge import Runtime
from prefiq_db.call import Call
from prefiq_db.config import Target
from prefiq_db.core.database_core import DatabaseCore
from prefiq_db.core.scope_marks import UNSAID, ScopeGate, ScopeMarker
from prefiq_db.dialects.following import MARK, behind
from prefiq_db.engines import make_async_engine, make_engine
from prefiq_db.errors import ErrorKind, PrefiqDbError, SchemaError, SubKind, UsageError
from prefiq_db.exactly_once import Claimer, Pruner, Resolver
from prefiq_db.execution.direct import DirectRoad
from prefiq_db.execution.shapes import ALL_ROWS
from prefiq_db.execution.statement_facts import as_executable
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.explainer import Explainer
from prefiq_db.insight.statement_observer import StatementObserver
from prefiq_db.instance import Instance
from prefiq_db.marks import Mark
from prefiq_db.pool.watcher import ConnectionWatcher
from prefiq_db.readers import Node, Readers
from prefiq_db.retry_budget import RetryBudget
from prefiq_db.settings import DatabaseSettings
from prefiq_db.tenants import TenantPools, beside


def assemble(settings: DatabaseSettings | str, fields: Mapping[str, Any], name: str, runtime: Runtime) -> DatabaseCore:
    """Return the database *name* for *runtime*, from settings or from a URL with further *fields*.

    There is no I/O. A caller that catches an error deletes *settings* and *fields*, which hold the password.

    Raises:
        SettingsError: if the settings are wrong; the message lists every problem, without values.
        MissingDriverError: if the driver isn't installed; the message names the extra to install.
    """
    instance = _assemble_instance(as_settings(settings, fields), name, runtime)
    instance.tenants = TenantPools(lambda tenant: _of_tenant(instance, tenant), instance.settings.tenant_pools)
    if instance.settings.replicas:
        _add_replicas(instance)
    return DatabaseCore(instance)


def _add_replicas(origin: Instance) -> None:
    """Make the replicas of *origin*, each an instance with an engine and a pool of its own; there is no I/O."""
    settings, runtime = origin.settings, origin.runtime
    nodes = []
    for each in settings.replica_nodes:
        node: Node[Instance] = Node(each.name, each.weight, origin)
        node.instance = _of_node(origin, node, each.target)
        nodes.append(node)
    origin.readers = readers = Readers(origin.name, nodes, settings.max_replica_lag_seconds, origin.hooks.emit)
    origin.has_tenants = True  # each call looks where it goes
    dialect: Any = origin.engine.dialect
    dialect.marker = ScopeMarker(dialect, runtime, readers.key)
    for node in nodes:
        dialect = node.instance.engine.dialect
        dialect.node = node.name
        dialect.gate = ScopeGate(
            dialect, runtime, readers.key, settings.replica_wait_seconds, lambda: _ask_mark(origin)
        )
        _note_connecting(node, readers)


def _note_connecting(node: Node[Instance], readers: Readers[Instance]) -> None:
    """Let *readers* know whether connections to *node* come about: sessions and engines pass no verb of ours."""
    pool: Any = node.instance.engine.pool
    creator = pool._creator

    def connect(record: Any = None) -> Any:
        try:
            made = creator(record)
        except Exception:
            readers.unreachable(node)
            raise
        readers.connected(node)
        return made

    pool._creator = connect


def _ask_mark(origin: Instance) -> Mark:
    """Ask the primary how far it is, for somebody who is about to read on a replica's own connection.

    Raises:
        ReplicaBehindError: it doesn't say, so nobody knows what the reader has to see.
    """
    dialect: Any = origin.road.dialect
    call = Call(MARK, as_executable(dialect.mark_sql), None, ALL_ROWS)
    try:
        rows: list[Any] = origin.road.one_shot(call)
    except PrefiqDbError as error:
        kind = error.kind.value
    else:
        mark: Mark | None = dialect.mark_from(rows[0]) if rows else None
        if mark is not None:
            return mark
        kind = ErrorKind.NOT_READY.value
    raise behind(f"{UNSAID} ({kind})")


def _of_node(origin: Instance, node: Node[Instance], target: Target) -> Instance:
    """Return the instance of the replica at *target*; its sessions refuse writes by themselves."""
    runtime = origin.runtime
    settings = origin.settings.replace(read_only=True)
    make = make_async_engine if runtime.is_async else make_engine
    watcher = ConnectionWatcher(origin.name, origin.hooks, settings.leak_after_seconds, origin.watcher)
    made: Any = make(settings, name=origin.name, observer=origin.observer, watcher=watcher, target=target)
    engine = made.sync_engine if runtime.is_async else made
    road = DirectRoad(engine, origin.name, masked=settings.masked)
    instance = replace(
        origin,
        settings=settings,
        target=target,
        watcher=watcher,
        engine=engine,
        async_engine=made if runtime.is_async else None,
        road=road,
        origin=origin,
        node=node,
    )
    instance.tenants = origin.tenants
    return instance


def _of_tenant(origin: Instance, tenant: str) -> Instance:
    """Return the database *tenant* beside *origin*: it has an engine and a pool of its own, and reports to the same."""
    settings, runtime = origin.settings, origin.runtime
    target = beside(origin.target, tenant)
    make = make_async_engine if runtime.is_async else make_engine
    watcher = ConnectionWatcher(origin.name, origin.hooks, settings.leak_after_seconds, origin.watcher)
    made: Any = make(settings, name=origin.name, observer=origin.observer, watcher=watcher, target=target)
    engine = made.sync_engine if runtime.is_async else made
    engine.dialect.reuses_raw = False
    _when_connecting(engine, lambda: _make_ready(origin, target))
    road = DirectRoad(engine, origin.name, masked=settings.masked)
    return replace(
        origin,
        target=target,
        watcher=watcher,
        engine=engine,
        async_engine=made if runtime.is_async else None,
        road=road,
        resolver=_resolver(settings, road, runtime, origin.hooks, origin.name, target),
        pruner=Pruner(road, origin.name),
        tenant=tenant,
        origin=origin,
    )


def _resolver(
    settings: DatabaseSettings, road: DirectRoad, runtime: Runtime, hooks: Hooks, name: str, target: Target
) -> Resolver:
    return Resolver(
        Claimer(road, runtime), hooks, name, settings.retry.total_seconds, os.path.basename(target.database)
    )


def _make_ready(origin: Instance, target: Target) -> None:
    """Prepare the connecting to *target*: close what is in the way, and refuse a file that SQLite would create."""
    origin.tenants.close_left()
    if target.product.is_file and not os.path.exists(target.database):
        raise SchemaError(
            f"database {origin.name}: this tenant has no file; migrate it first, which creates it",
            database=origin.name,
            sub_kind=SubKind.MISSING,
        )


def _when_connecting(engine: Any, prepare: Callable[[], None]) -> None:
    creator = engine.pool._creator

    def connect(record: Any = None) -> Any:
        prepare()
        return creator(record)

    engine.pool._creator = connect


def _assemble_instance(settings: DatabaseSettings, name: str, runtime: Runtime) -> Instance:
    hooks = Hooks(name)
    observer = StatementObserver(
        name, _label(settings), hooks, masked=settings.masked, slow_seconds=settings.slow_query_seconds
    )
    watcher = ConnectionWatcher(name, hooks, settings.leak_after_seconds)
    make = make_async_engine if runtime.is_async else make_engine
    made: Any = make(settings, name=name, observer=observer, watcher=watcher)
    engine = made.sync_engine if runtime.is_async else made
    road = DirectRoad(engine, name, masked=settings.masked)
    return Instance(
        settings=settings,
        target=settings.target,
        name=name,
        runtime=runtime,
        hooks=hooks,
        observer=observer,
        watcher=watcher,
        engine=engine,
        async_engine=made if runtime.is_async else None,
        road=road,
        retry_budget=RetryBudget(name, settings.retry_budget),
        explainer=_explainer(settings, name),
        resolver=_resolver(settings, road, runtime, hooks, name, settings.target),
        pruner=Pruner(road, name),
    )


def as_settings(settings: DatabaseSettings | str, fields: Mapping[str, Any]) -> DatabaseSettings:
    """Return *settings*; if it is a URL, make settings from it."""
    if isinstance(settings, DatabaseSettings):
        if fields:
            raise UsageError(
                "expected either DatabaseSettings or a URL with further fields; put them into the settings"
            )
        return settings
    if isinstance(settings, str):
        return DatabaseSettings(url=settings, **fields)
    raise UsageError(f"expected a URL or DatabaseSettings, not {type(settings).__name__}")


def _label(settings: DatabaseSettings) -> str:
    """Return the name of the dialect of *settings* for classifying errors."""
    return settings.target.product.dialect


def _explainer(settings: DatabaseSettings, name: str) -> Explainer | None:
    """Return the explainer, which asks for plans of slow statements, if the settings enable it."""
    if not settings.explain_slow_queries:
        return None
    return Explainer(name, _label(settings), time.monotonic, masked=settings.masked)
