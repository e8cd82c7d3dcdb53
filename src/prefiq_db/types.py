"""Column types that give back what was put in, on SQLite, PostgreSQL and MariaDB alike.

SQLAlchemy's own types suffice for text, integers, bytes, booleans, ``Uuid`` and ``JSON``. Two don't:
``DateTime(timezone=True)`` loses the offset on MariaDB and SQLite (and on MariaDB the microseconds), which makes it
another instant; ``Numeric`` goes through a float on SQLite.
"""

from __future__ import annotations

import datetime as dt
from decimal import Context, Decimal
from typing import Any

from sqlalchemy import DateTime, Dialect, Numeric, String
from sqlalchemy.dialects.mysql import DATETIME
from sqlalchemy.types import TypeDecorator, TypeEngine

from prefiq_db.errors import UsageError


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An instant: aware datetimes in, UTC datetimes out, microseconds kept.

    PostgreSQL ``TIMESTAMP WITH TIME ZONE``, MariaDB ``DATETIME(6)`` and SQLite ``DATETIME`` in UTC.

    Raises:
        UsageError: for a naive datetime: nobody knows which instant it means.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None or value.utcoffset() is None:
            raise UsageError("UtcDateTime: expected an aware datetime, such as datetime.now(UTC); got a naive one")
        utc = value.astimezone(dt.UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal number of *precision* digits, *scale* of them after the point, kept to the last digit.

    ``NUMERIC(precision, scale)`` on PostgreSQL and MariaDB; on SQLite a text, which sorts and adds up as text: convert
    there with ``CAST`` where the database has to calculate.

    Raises:
        UsageError: for a float, or a number with more digits than the column has; it is never rounded in silence.
    """

    impl = Numeric
    cache_ok = True

    def __init__(self, precision: int = 19, scale: int = 4) -> None:
        super().__init__(precision=precision, scale=scale)
        self.precision = precision
        self.scale = scale

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(self.precision + 2))
        return dialect.type_descriptor(Numeric(self.precision, self.scale, asdecimal=True))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        exact = self._exact(value)
        return str(exact) if dialect.name == "sqlite" else exact

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)

    def _exact(self, value: Any) -> Decimal:
        if isinstance(value, bool) or not isinstance(value, (Decimal, int)):
            raise UsageError(f"ExactDecimal: expected a Decimal or an int, not {type(value).__name__}")
        number = Decimal(value)
        if not number.is_finite():
            raise UsageError("ExactDecimal: expected a finite number")
        # A context of our own: the default one has 28 digits and rounds, or refuses, beyond them.
        context = Context(prec=self.precision + len(number.as_tuple().digits) + self.scale)
        exact = number.quantize(Decimal(1).scaleb(-self.scale), context=context)
        if exact != number:
            raise UsageError(f"ExactDecimal: more than {self.scale} digits after the point; round it yourself")
        if exact.adjusted() >= self.precision - self.scale and exact != 0:
            raise UsageError(f"ExactDecimal: more than {self.precision - self.scale} digits before the point")
        return exact
