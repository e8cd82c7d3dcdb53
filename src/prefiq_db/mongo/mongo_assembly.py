"""Assemble one document database from settings or a URL. PyMongo is imported here at the earliest: it is an extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from prefiq_db.bridge import Runtime
from prefiq_db.core.assembly import as_settings
from prefiq_db.errors import MissingDriverError, UnsupportedError
from prefiq_db.hooks.logs import mask_pymongo_loggers
from prefiq_db.hooks.registry import Hooks
from prefiq_db.mongo.client_options import client_options
from prefiq_db.pool.watcher import ConnectionWatcher
from prefiq_db.retry_budget import RetryBudget
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.border import Border

if TYPE_CHECKING:
    from prefiq_db.mongo.mongo_core import MongoCore


def assemble_mongo(
    settings: DatabaseSettings | str, fields: Mapping[str, Any], name: str, runtime: Runtime
) -> MongoCore:
    """Return the document database *name* for *runtime*, from settings or from a URL with further *fields*.

    There is no I/O. A caller that catches an error deletes *settings* and *fields*, which hold the password.

    Raises:
        SettingsError: if the settings are wrong; the message lists every problem, without values.
        UnsupportedError: if they are of a database that keeps tables.
        MissingDriverError: if PyMongo isn't installed; the message names the extra to install.
    """
    chosen = as_settings(settings, fields)
    product = chosen.target.product
    if not product.keeps_documents:
        world = "Async" if runtime.is_async else ""
        raise UnsupportedError(f"{product.name} keeps tables, not documents: use {world}Database of prefiq_db")
    if importlib.util.find_spec(product.document_driver) is None:
        raise MissingDriverError(
            f"{product.name}: the driver {product.document_driver} is not installed; install it with: "
            f"pip install 'prefiq-db[{product.extra}]'"
        )
    return _assemble(chosen, name, runtime)


def _assemble(settings: DatabaseSettings, name: str, runtime: Runtime) -> MongoCore:
    from prefiq_db.mongo.command_observer import CommandObserver
    from prefiq_db.mongo.mongo_core import MongoCore
    from prefiq_db.mongo.mongo_instance import MongoInstance
    from prefiq_db.mongo.pymongo_client import make_client
    from prefiq_db.mongo.pymongo_events import PoolEvents

    dialect = settings.target.product.dialect
    hooks = Hooks(name)
    observer = CommandObserver(name, dialect, hooks, masked=settings.masked, slow_seconds=settings.slow_query_seconds)
    watcher = ConnectionWatcher(name, hooks, settings.leak_after_seconds)
    pool = PoolEvents(watcher)
    listeners = [observer, pool]
    client_options(settings)  # what is wrong with them is said now
    if settings.masked:
        mask_pymongo_loggers()
    return MongoCore(
        MongoInstance(
            settings=settings,
            name=name,
            runtime=runtime,
            hooks=hooks,
            observer=observer,
            watcher=watcher,
            pool=pool,
            make_client=lambda: make_client(settings, listeners, is_async=runtime.is_async),
            retry_budget=RetryBudget(name, settings.retry_budget),
            border=Border(name, dialect, masked=settings.masked),
        )
    )
