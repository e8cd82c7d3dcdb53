"""Assemble one database from settings or a URL."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from prefiq_db.bridge import Runtime
from prefiq_db.core.database_core import DatabaseCore
from prefiq_db.engines import make_async_engine, make_engine
from prefiq_db.errors import UsageError
from prefiq_db.exactly_once import Claimer, Pruner, Resolver
from prefiq_db.execution.standard import StandardRoad
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.explainer import Explainer
from prefiq_db.insight.statement_observer import StatementObserver
from prefiq_db.instance import Instance
from prefiq_db.pool.watcher import ConnectionWatcher
from prefiq_db.retry_budget import RetryBudget
from prefiq_db.settings import DatabaseSettings


def assemble(settings: DatabaseSettings | str, fields: Mapping[str, Any], name: str, runtime: Runtime) -> DatabaseCore:
    """Return the database *name* for *runtime*, from settings or from a URL with further *fields*.

    There is no I/O. A caller that catches an error deletes *settings* and *fields*, which hold the password.

    Raises:
        SettingsError: if the settings are wrong; the message lists every problem, without values.
        MissingDriverError: if the driver isn't installed; the message names the extra to install.
    """
    return DatabaseCore(_assemble_instance(as_settings(settings, fields), name, runtime))


def _assemble_instance(settings: DatabaseSettings, name: str, runtime: Runtime) -> Instance:
    hooks = Hooks(name)
    observer = StatementObserver(
        name, _label(settings), hooks, masked=settings.masked, slow_seconds=settings.slow_query_seconds
    )
    watcher = ConnectionWatcher(name, hooks, settings.leak_after_seconds)
    make = make_async_engine if runtime.is_async else make_engine
    made: Any = make(settings, name=name, observer=observer, watcher=watcher)
    engine = made.sync_engine if runtime.is_async else made
    road = StandardRoad(engine, name, masked=settings.masked)
    return Instance(
        settings=settings,
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
        resolver=Resolver(Claimer(road, runtime), hooks, name, settings.retry.total_seconds),
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
