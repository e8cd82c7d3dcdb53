"""Decimal numbers: not a digit is lost, and none is rounded in silence."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any, Final

from sqlalchemy import Dialect, Numeric, String
from sqlalchemy.types import TypeDecorator, TypeEngine

from prefiq_db.errors import UnsupportedError, UsageError
from prefiq_db.types.decimal_order import ExactComparator

# What MariaDB's DECIMAL takes at most (and MySQL, whose scale ends at 30); PostgreSQL and SQLite take more.
MAX_PRECISION: Final = 65
MAX_SCALE: Final = 30
# A double is right to the last of 15 digits.
_FLOAT_DIGITS: Final = 15


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal number of *precision* digits, *scale* of them after the point, kept to the last digit.

    ``NUMERIC(precision, scale)`` on PostgreSQL and MariaDB; on SQLite, which has no decimals, a text. There ``=``,
    ``<``, ``between``, ``.asc()`` and ``.desc()`` are exact all the same; ``order_by`` of the bare column, ``min`` and
    ``max`` follow the text: sort by :func:`prefiq_db.types.numeric_order`. SQLite calculates (``sum``, ``+``) in
    floats: a result of up to 15 digits is right and rounded to *scale*, a longer one is refused.

    Raises:
        UsageError: for a float, or a number with more digits than the column has; it is never rounded in silence.
        UnsupportedError: when SQLite calculated a number that a float can't hold.
    """

    impl = Numeric
    cache_ok = True
    comparator_factory = ExactComparator

    def __init__(self, precision: int = 19, scale: int = 4) -> None:
        if not 1 <= precision <= MAX_PRECISION or not 0 <= scale <= min(precision, MAX_SCALE):
            raise UsageError(
                f"{type(self).__name__}: expected a precision of 1 to {MAX_PRECISION}, and a scale of 0 to {MAX_SCALE} "
                f"that isn't larger; got {precision}, {scale}"
            )
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
        # Not str(): that writes small numbers as 1E-10, and equal numbers must be equal texts.
        return format(exact, "f") if dialect.name == "sqlite" else exact

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is None:
            return None
        if isinstance(value, float):  # only SQLite calculates in floats
            return self._calculated(value)
        return Decimal(value)

    def _exact(self, value: Any) -> Decimal:
        """Return *value* with exactly *scale* digits after the point.

        Raises:
            UsageError: it is no decimal number, or doesn't fit without rounding.
        """
        me = type(self).__name__
        if isinstance(value, bool) or not isinstance(value, (Decimal, int)):
            raise UsageError(f"{me}: expected a Decimal or an int, not {type(value).__name__}")
        number = Decimal(value)
        if not number.is_finite():
            raise UsageError(f"{me}: expected a finite number")
        if not number:
            return Decimal(0).scaleb(-self.scale)  # also of -0, which is no other number
        if number.adjusted() >= self.precision - self.scale:
            raise UsageError(f"{me}: more than {self.precision - self.scale} digits before the point")
        # A context of our own: the default one has 28 digits and rounds, or refuses, beyond them.
        context = Context(prec=self.precision + len(number.as_tuple().digits) + self.scale)
        exact = number.quantize(Decimal(1).scaleb(-self.scale), context=context)
        if exact != number:
            raise UsageError(f"{me}: more than {self.scale} digits after the point; round it yourself")
        return exact

    def _calculated(self, value: float) -> Decimal:
        if abs(value) < 10.0 ** (_FLOAT_DIGITS - self.scale):
            return Decimal(repr(value)).quantize(Decimal(1).scaleb(-self.scale))
        raise UnsupportedError(
            f"{type(self).__name__}: SQLite calculated this in floats, and it is too large to be right to the last of "
            f"{self.scale} digits after the point; calculate in Python, or on PostgreSQL or MariaDB"
        )


class Money(ExactDecimal):
    """An amount of money: :class:`ExactDecimal` of 19 digits, 4 of them after the point. The currency is elsewhere.

    Four digits after the point hold prices per unit and taxes of every currency, and fifteen before it any turnover.
    """

    cache_ok = True

    def __init__(self) -> None:
        super().__init__(precision=19, scale=4)
