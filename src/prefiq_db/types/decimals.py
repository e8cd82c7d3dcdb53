"""Decimal numbers that lose no digit and are never rounded silently."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any, Final

from sqlalchemy import Dialect, Float, Numeric
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeDecorator, TypeEngine

from prefiq_db.errors import SchemaError, UnsupportedError, UsageError
from prefiq_db.products import dialects
from prefiq_db.types.decimal_arithmetic import ExactComparator
from prefiq_db.types.decimal_floats import MAX_DIGITS, DecimalFloat, decimal_of, fits, float_of, limit

# The maximum of MariaDB's DECIMAL (and MySQL's, whose scale ends at 30); PostgreSQL takes more.
MAX_PRECISION: Final = 65
MAX_SCALE: Final = 30

_WITHOUT_DECIMALS: Final = dialects(where=lambda product: not product.has_decimals)

#: The type name of a decimal column in SQLite. Because it contains "REAL", SQLite converts what is written to it to
#: floats, even a text's number and an integer, so that ``/`` never divides integers.
SQLITE_NAME: Final = "DECIMAL_REAL"


class DecimalReal(Float[Any]):
    """SQLite's column type for an exact decimal."""

    __visit_name__ = "decimal_real"

    def __init__(self, precision: int = 19, scale: int = 4) -> None:
        super().__init__()
        self.precision = precision
        self.scale = scale

    def bind_processor(self, dialect: Dialect) -> None:
        return None

    def literal_processor(self, dialect: Dialect) -> Any:
        return float.__repr__

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        return None


@compiles(DecimalReal)
def _ddl(type_: DecimalReal, compiler: Any, **kwargs: Any) -> str:
    return f"{SQLITE_NAME}({type_.precision}, {type_.scale})"


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal number of *precision* digits, *scale* of them after the point, kept to the last digit.

    ``NUMERIC(precision, scale)`` on PostgreSQL and MariaDB. SQLite has no decimals: there it is a float of at most 15
    digits, which are exact, in a column that refuses any other (``DECIMAL_REAL``, with a CHECK). SQL compares and sorts
    them as numbers on all three; Core's ``+``, ``-``, ``*`` and ``sum`` are exact, ``/`` isn't offered on SQLite.

    Raises:
        UsageError: for a float, or a number with more digits than the column has; it is never rounded silently. On
            SQLite also for one of more than 15 digits in all: 99999999999.9999 is the largest ``Money`` there.
        UnsupportedError: if SQLite calculated a number that has more than 15 digits, or is to divide.
        SchemaError: if a column of SQLite still holds texts, as it did before this type stored numbers.
    """

    impl = Numeric
    cache_ok = True
    comparator_factory = ExactComparator
    precision: int
    #: ``None`` only for a calculated value whose scale is unknown
    scale: Any

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
        if dialect.name in _WITHOUT_DECIMALS:
            return dialect.type_descriptor(DecimalReal(self.precision, self.scale))
        return dialect.type_descriptor(Numeric(self.precision, self.scale, asdecimal=True))

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        # A column of four digits may be compared with 1.55555 or multiplied by it, so the operand keeps its own scale.
        return Operand(_digits_after(value)) if isinstance(value, (Decimal, int)) else self

    def _calculated_type(self, scale: int | None) -> ExactDecimal:
        """Return the type of a calculation with this one, with *scale* digits; ``None``: unknown."""
        return Operand(scale)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        exact = self._exact(value)
        return self._as_float(exact) if dialect.name in _WITHOUT_DECIMALS else exact

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is None:
            return None
        if dialect.name in _WITHOUT_DECIMALS:
            return self._from_sqlite(value)
        return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)

    def _exact(self, value: Any) -> Decimal:
        """Return *value* with exactly *scale* digits after the point.

        Raises:
            UsageError: it is not a decimal number, or doesn't fit without rounding.
        """
        number = self._number(value)
        me = type(self).__name__
        if not number:
            return Decimal(0).scaleb(-self.scale)  # also for -0, which equals 0
        if number.adjusted() >= self.precision - self.scale:
            raise UsageError(f"{me}: more than {self.precision - self.scale} digits before the point")
        # A separate context: the default one has 28 digits and rounds, or raises, beyond them.
        context = Context(prec=self.precision + len(number.as_tuple().digits) + self.scale)
        exact = number.quantize(Decimal(1).scaleb(-self.scale), context=context)
        if exact != number:
            raise UsageError(f"{me}: more than {self.scale} digits after the point; round it yourself")
        return exact

    def _number(self, value: Any) -> Decimal:
        me = type(self).__name__
        if isinstance(value, bool) or not isinstance(value, (Decimal, int)):
            raise UsageError(f"{me}: expected a Decimal or an int, not {type(value).__name__}")
        number = Decimal(value)
        if not number.is_finite():
            raise UsageError(f"{me}: expected a finite number")
        return number

    def _as_float(self, exact: Decimal) -> DecimalFloat:
        found = float_of(exact) if fits(exact, self.scale) else None
        if found is None:
            raise UsageError(
                f"{type(self).__name__}: SQLite keeps {MAX_DIGITS} digits, {self.scale} of them after the point here, "
                "and this number is too large for that; PostgreSQL and MariaDB keep it"
            )
        return found

    def _from_sqlite(self, value: Any) -> Decimal:
        me = type(self).__name__
        if isinstance(value, (str, bytes)):
            raise SchemaError(
                f"{me}: this column of SQLite holds texts, not numbers: an earlier version of prefiq_db made it; "
                "run prefiq_db.migrate.decimals_to_numbers in a revision (docs/migrations.md)"
            )
        number = decimal_of(value) if isinstance(value, float) else Decimal(value)
        unit = Decimal(1).scaleb(-self.scale)
        if not fits(number, self.scale) or (rounded := number.quantize(unit)) != number:
            raise UnsupportedError(
                f"{me}: SQLite calculated this in floats, and it isn't right to the last of {self.scale} digits after "
                "the point: calculate with Core, or in Python, or say round(..., digits) in the SQL"
            )
        return rounded


def exact_type(type_: Any) -> ExactDecimal | None:
    """Return the exact decimal in *type_*, also inside a user's TypeDecorator; ``None`` if there is none."""
    while isinstance(type_, TypeDecorator) and not isinstance(type_, ExactDecimal):
        type_ = type_.impl_instance
    return type_ if isinstance(type_, ExactDecimal) else None


class Operand(ExactDecimal):
    """The other operand of a comparison or calculation with a decimal, or its result: of any size.

    ``scale`` is ``None`` when it is unknown.
    """

    cache_ok = True

    def __init__(self, scale: int | None = 0) -> None:
        super().__init__(MAX_PRECISION, min(scale or 0, MAX_SCALE))
        self.scale = scale

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in _WITHOUT_DECIMALS:
            return dialect.type_descriptor(DecimalReal())
        return dialect.type_descriptor(Numeric(asdecimal=True))

    def _exact(self, value: Any) -> Decimal:
        return self._number(value)

    def _as_float(self, exact: Decimal) -> DecimalFloat:
        found = float_of(exact)
        if found is None:
            raise UsageError(
                f"ExactDecimal: SQLite compares and calculates with at most {MAX_DIGITS} digits; this number has more"
            )
        return found

    def _from_sqlite(self, value: Any) -> Decimal:
        if self.scale is not None:
            return super()._from_sqlite(value)
        return decimal_of(value) if isinstance(value, float) else Decimal(value)


def _digits_after(value: Decimal | int) -> int:
    """Return how many digits after the point *value* has; trailing zeros count, as they do in SQL."""
    exponent = value.as_tuple().exponent if isinstance(value, Decimal) else 0
    return max(0, -exponent) if isinstance(exponent, int) else 0


class Money(ExactDecimal):
    """An amount of money: :class:`ExactDecimal` of 19 digits, 4 of them after the point. The currency is elsewhere.

    Four digits after the point hold prices per unit and taxes of every currency, and fifteen before it any turnover;
    on SQLite it is eleven before it.
    """

    cache_ok = True

    def __init__(self) -> None:
        super().__init__(precision=19, scale=4)


def check_sql(column: str, scale: int) -> str:
    """Return the CHECK that allows in *column*, an SQL name, only floats that stand for decimals of that scale.

    It multiplies and divides, which every SQLite version does alike; SQLite's round(x, n) goes through texts and misses
    some numbers of 15 digits.
    """
    unit = f"{10**scale}.0"
    return f"CHECK (abs({column}) < {limit(scale):f} AND {column} = round({column} * {unit}) / {unit})"
