"""Instants: the same moment comes back, whatever time zone it was written in."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import DateTime, Dialect
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.types import TypeDecorator, TypeEngine

from prefiq_db.errors import DataError, UsageError
from prefiq_db.products import dialects

# DATETIME has no fractional seconds unless the type asks for them.
_WITH_DIGITS: Final = dialects(where=lambda product: product.speaks_mysql)
_WITH_ZONES: Final = dialects(where=lambda product: product.keeps_zones)


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An instant: takes aware datetimes, returns UTC datetimes, keeps microseconds.

    PostgreSQL ``TIMESTAMP WITH TIME ZONE``, MariaDB ``DATETIME(6)`` and SQLite ``DATETIME`` in UTC. Compares and sorts
    by time everywhere. Adding a ``timedelta`` in SQL is refused: calculate in Python, or in the database's own SQL.

    Raises:
        UsageError: for a naive datetime, whose instant is unknown; for any other type; for an instant outside the years
            1 to 9999 in UTC.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in _WITH_DIGITS:
            return dialect.type_descriptor(DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name in _WITH_ZONES))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if not isinstance(value, dt.datetime):
            raise UsageError(f"UtcDateTime: expected an aware datetime, not {type(value).__name__}")
        if value.tzinfo is None or value.utcoffset() is None:
            raise UsageError("UtcDateTime: expected an aware datetime, such as datetime.now(UTC); got a naive one")
        try:
            utc = value.astimezone(dt.UTC)
        except OverflowError:
            utc = None
        if utc is None:  # outside the except block, so that our error doesn't carry the driver's or Python's
            raise UsageError("UtcDateTime: expected an instant within the years 1 to 9999 in UTC")
        return utc if dialect.name in _WITH_ZONES else utc.replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | str | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if isinstance(value, str):  # a literal, or on MariaDB COALESCE(instant, :p), whose driver binds texts
            value = _read(value)
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


def _read(text: str) -> dt.datetime:
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        pass
    raise DataError("UtcDateTime: expected a date and time from the database, and it gave a text that is none")
