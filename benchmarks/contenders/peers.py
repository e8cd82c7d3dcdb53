"""Other libraries, sync. Each imports its library when it opens; one that isn't installed is named as not measured."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from benchmarks import workload as w
from benchmarks.contenders import Operations
from benchmarks.places import Place

_DJANGO_BACKENDS = {"sqlite": "sqlite3", "postgresql": "postgresql", "mariadb": "mysql"}


@contextmanager
def psycopg_pool(place: Place) -> Iterator[Operations]:
    from psycopg_pool import ConnectionPool

    statements = w.statements("format")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows
    with ConnectionPool(place.url, min_size=w.POOL_SIZE, max_size=w.POOL_SIZE, open=True) as pool:
        pool.wait()

        def fetch(sql: str, values: Any) -> Any:
            with pool.connection() as connection:
                return connection.execute(sql, values).fetchall()

        def write() -> None:
            with pool.connection() as connection:
                connection.execute(insert.sql, insert.values)

        def transaction() -> None:
            with pool.connection() as connection:
                for update in updates:
                    connection.execute(update.sql, update.values)

        yield {
            w.POINT: lambda: fetch(point.sql, point.values),
            w.INSERT: write,
            w.TRANSACTION: transaction,
            w.MANY_ROWS: lambda: fetch(rows, ()),
            w.THREADS: lambda: fetch(point.sql, point.values),
        }


@contextmanager
def django_cursor(place: Place) -> Iterator[Operations]:
    """Django's connections belong to a thread each, so it has no ten of them for 32 threads."""
    if place.name == "mariadb":
        import pymysql

        pymysql.install_as_MySQLdb()
    import django
    from django.conf import settings
    from django.db import connections, transaction

    if not settings.configured:
        settings.configure(USE_TZ=True, LOGGING_CONFIG=None)
        django.setup()
    alias = f"{place.name}_{place.port}"
    config = _django_config(place)
    connections.databases[alias] = connections.configure_settings({"default": config, alias: config})[alias]
    connection = connections[alias]
    statements = w.statements("format")
    point, insert, updates, rows = statements.point, statements.insert, statements.updates, statements.rows

    def run(sql: str, values: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def atomic() -> None:
        with transaction.atomic(using=alias), connection.cursor() as cursor:
            for update in updates:
                cursor.execute(update.sql, update.values)

    try:
        yield {
            w.POINT: lambda: run(point.sql, point.values),
            w.INSERT: lambda: run(insert.sql, insert.values),
            w.TRANSACTION: atomic,
            w.MANY_ROWS: lambda: run(rows, None),
        }
    finally:
        connection.close()


def _django_config(place: Place) -> dict[str, Any]:
    url = place.plain_url("sync")
    config = {"ENGINE": f"django.db.backends.{_DJANGO_BACKENDS[place.name]}", "NAME": url.database}
    if not place.port:
        return config
    return config | {"HOST": url.host, "PORT": url.port, "USER": url.username, "PASSWORD": url.password or ""}


@contextmanager
def advanced_alchemy(place: Place) -> Iterator[Operations]:
    """Its repositories, in a session for each piece of work."""
    from advanced_alchemy.config import SQLAlchemySyncConfig
    from advanced_alchemy.repository import SQLAlchemySyncRepository

    models = advanced_alchemy_models()

    class Items(SQLAlchemySyncRepository[Any]):
        model_type = models.item

    class Entries(SQLAlchemySyncRepository[Any]):
        model_type = models.entry

    class Wides(SQLAlchemySyncRepository[Any]):
        model_type = models.wide

    engine = sa.create_engine(place.plain_url("sync"), pool_size=w.POOL_SIZE, max_overflow=0)
    config = SQLAlchemySyncConfig(engine_instance=engine)

    def get() -> Any:
        with config.get_session() as session:
            return Items(session=session).get(7)

    def add() -> None:
        with config.get_session() as session:
            Entries(session=session).add(models.entry(item_id=7, qty=3, note="a note about the item"), auto_commit=True)

    def transaction() -> None:
        with config.get_session() as session:
            for statement in models.updates:
                session.execute(statement)
            session.commit()

    def every_row() -> Any:
        with config.get_session() as session:
            return Wides(session=session).list()

    try:
        yield {w.POINT: get, w.INSERT: add, w.TRANSACTION: transaction, w.MANY_ROWS: every_row, w.THREADS: get}
    finally:
        engine.dispose()


@dataclass(frozen=True, slots=True)
class Models:
    """The tables of the workload as advanced-alchemy has them: mapped classes."""

    item: Any
    entry: Any
    wide: Any
    updates: tuple[Any, Any]


@functools.cache
def advanced_alchemy_models() -> Models:
    from advanced_alchemy.base import CommonTableAttributes
    from sqlalchemy.orm import DeclarativeBase

    class Base(CommonTableAttributes, DeclarativeBase):
        metadata = w.METADATA

    item, entry, wide = (type(table.name.title(), (Base,), {"__table__": table}) for table in (w.ITEM, w.ENTRY, w.WIDE))
    updates = tuple(sa.update(item).where(item.id == id).values(qty=item.qty + n) for id, n in ((1, 1), (2, -1)))
    return Models(item, entry, wide, updates)
