"""Make SQLAlchemy engines from settings: driver, pool, our dialect, our hooks."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from prefiq_db.config import WRITER, Target
from prefiq_db.connectors import connector_for
from prefiq_db.connectors.several_hosts import SeveralHosts
from prefiq_db.dialects.engine_parts import Limits
from prefiq_db.dialects.observers import Observer, Watcher
from prefiq_db.dialects.values import json_text
from prefiq_db.engine_class import PrefiqEngine
from prefiq_db.errors import MissingDriverError, UnsupportedError, UsageError
from prefiq_db.execution.comments import comment
from prefiq_db.execution.lingering_statements import marking_lingering
from prefiq_db.hooks.logs import logging_name, mask_loggers
from prefiq_db.pool.vetting import INVALIDATED, AsyncPrefiqPool, PrefiqPool
from prefiq_db.products import PRODUCTS, SUPPORTED_ENGINES, Driver
from prefiq_db.settings import DatabaseSettings
from prefiq_db.translation.both import of_both
from prefiq_db.translation.engine_border import translate_errors

for _product in PRODUCTS.values():
    for _driver in filter(None, (_product.sync_driver, _product.async_driver)):
        registry.register(_driver.scheme.replace("+", "."), *_driver.dialect)


def make_engine(
    settings: DatabaseSettings,
    *,
    name: str = "main",
    observer: Observer | None = None,
    watcher: Watcher | None = None,
    target: Target | None = None,
) -> Engine:
    """Return a sync engine for *settings*, without any I/O; *target*: of another database than the settings say.

    Raises:
        MissingDriverError: if the driver isn't installed; names the extra to install.
        UnsupportedError: if this kind of database has no SQL engine.
    """
    made: Engine = _make(
        settings, create_engine, PrefiqPool, name, is_async=False, observer=observer, watcher=watcher, target=target
    )
    return made


def make_async_engine(
    settings: DatabaseSettings,
    *,
    name: str = "main",
    observer: Observer | None = None,
    watcher: Watcher | None = None,
    target: Target | None = None,
) -> AsyncEngine:
    """Return an async engine for *settings*, without any I/O. Raises what :func:`make_engine` raises."""
    made: AsyncEngine = _make(
        settings,
        create_async_engine,
        AsyncPrefiqPool,
        name,
        is_async=True,
        observer=observer,
        watcher=watcher,
        target=target,
    )
    return made


def _make(
    settings: DatabaseSettings,
    create: Callable[..., Any],
    pool: type,
    name: str,
    *,
    is_async: bool,
    observer: Observer | None,
    watcher: Watcher | None,
    target: Target | None,
) -> Any:
    target = target or settings.target
    driver = _driver_for(target, is_async)
    limits = Limits(
        max_age_seconds=settings.pool_max_age_seconds,
        ping_after_idle_seconds=settings.ping_after_idle_seconds,
        ask_role_after_seconds=settings.ask_role_after_seconds,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        lock_timeout_seconds=settings.lock_timeout_seconds,
        session_settings=not settings.pgbouncer,
        read_only=settings.read_only,
    )
    engine = create(
        _describe_url(driver, target),
        connector=connector_for(settings, target, is_async),
        limits=limits,
        observer=observer,
        watcher=watcher,
        commenter=comment if settings.sql_comments else None,
        poolclass=pool,
        pool_limits=limits,
        pool_watcher=watcher,
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout_seconds,
        hide_parameters=settings.masked,
        json_serializer=json_text,
        # Without it, SQLAlchemy drops the row count of an INSERT and reports -1.
        execution_options={"preserve_rowcount": True},
        logging_name=logging_name(name, masked=settings.masked),
        pool_logging_name=logging_name(name, masked=settings.masked),
    )
    sync_engine: Any = engine.sync_engine if is_async else engine
    sync_engine.pool._creator = _ours_only(sync_engine.pool._creator, engine.dialect)
    sync_engine.dialect.guard_of_sessions = marking_lingering(sync_engine.dialect)
    # create_engine() has no argument for the class; ours only adds methods.
    sync_engine.__class__ = PrefiqEngine
    if settings.masked:
        mask_loggers(sync_engine.logger, sync_engine.pool.logger)
    translate_errors(sync_engine, name, masked=settings.masked)
    for each in (sync_engine, engine.dialect):
        # Every statement reads their attributes; see _VettingPool.__init__.
        each.__dict__ = dict(each.__dict__)
    if watcher is not None:
        _tell_of_invalidation(sync_engine, watcher)
    _follow_the_primary(sync_engine)
    return engine


def _ours_only(creator: Callable[..., Any], dialect: Any) -> Callable[..., Any]:
    """Return *creator*, refusing a connection that a do_connect listener opened itself: it lacks our set-up."""

    def connect(connection_record: Any = None) -> Any:  # SQLAlchemy passes the record to an argument of this name
        connection = creator(connection_record)
        if dialect.made(connection):
            return connection
        with contextlib.suppress(Exception):
            connection.close()
        raise of_both(
            UsageError(
                "do_connect: a listener returned a connection of its own, which has no time limits and no session "
                "set-up; change user or password in its cparams instead, and return None"
            )
        )

    return connect


def _driver_for(target: Target, is_async: bool) -> Driver:
    product = target.product
    driver = product.driver(is_async)
    if product.keeps_documents:
        world = "Async" if is_async else ""
        raise UnsupportedError(
            f"{product.name} keeps documents, not tables: use {world}MongoDatabase of prefiq_db.mongo"
        )
    if driver is None:
        raise UnsupportedError(f"{product.name}: not supported yet; expected {SUPPORTED_ENGINES}")
    if importlib.util.find_spec(driver.module) is None:
        raise MissingDriverError(
            f"{target.engine}: the driver {driver.module} is not installed; install it with: "
            f"pip install 'prefiq-db[{product.extra or 'all'}]'"
        )
    return driver


def _describe_url(driver: Driver, target: Target) -> URL:
    """Return the URL that the engine shows: without password and options, so its ``repr`` is safe."""
    first = target.hosts[0] if target.hosts else None
    return URL.create(
        driver.scheme,
        username=target.user,
        host=first.host if first else None,
        port=first.port if first else None,
        database=target.database,
    )


def _follow_the_primary(engine: Any) -> None:
    """Let the connector look for the primary anew after a lost connection, and the pool leave a host with it."""
    connector = engine.dialect.connector
    if not isinstance(connector, SeveralHosts) or len(connector.target.hosts) == 1:
        return

    engine.dialect.follows_primary = connector.wanted == WRITER
    engine.dialect.seeks_primary = connector.seeks_primary
    engine.dialect.asks_role = connector.asks_role
    creator = engine.pool._creator

    def connect(connection_record: Any = None) -> Any:
        connection = creator(connection_record)
        if connector.has_moved:
            connector.has_moved = False
            # As SQLAlchemy does after a lost connection: whatever was opened before is replaced before its next use.
            opened_at = time.time() if connection_record is None else connection_record.starttime
            engine.pool._invalidate_time = max(engine.pool._invalidate_time, opened_at)
        return connection

    engine.pool._creator = connect

    @event.listens_for(engine, "invalidate")
    def invalidated(dbapi_connection: Any, record: Any, error: BaseException | None) -> None:
        if error is not None:
            connector.doubt()


def _tell_of_invalidation(engine: Engine, watcher: Watcher) -> None:
    """Notify *watcher* when SQLAlchemy throws a connection away because of an error on it."""

    @event.listens_for(engine, "invalidate")
    def invalidated(dbapi_connection: Any, record: Any, error: BaseException | None) -> None:
        if error is not None:
            watcher.lost(INVALIDATED)
