"""Decimals of up to 15 digits as floats: different decimals have different floats, in the same order.

So SQLite, which has no decimals, can keep them in REAL columns: it stores, compares, sorts and joins them as the right
numbers, for every program that opens the file.
Why: docs/decisions/0034-why-sqlite-keeps-decimals-of-15-digits.md.
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Final

#: A double distinguishes all decimals of so many digits.
MAX_DIGITS: Final = 15

_ROOMY: Final = Context(prec=400)


class DecimalFloat(float):
    """A float that stands for a decimal number; the type marks it for the code that sends it."""

    __slots__ = ()


def float_of(number: Decimal) -> DecimalFloat | None:
    """Return the float that stands for *number*; ``None`` if it has more than 15 digits, or is NaN or infinite."""
    if not number.is_finite():
        return None
    shortest = number.normalize(_ROOMY) if number else Decimal(0)
    if len(shortest.as_tuple().digits) > MAX_DIGITS or abs(shortest.adjusted()) > 300:
        return None
    return DecimalFloat(shortest)


def decimal_of(value: float) -> Decimal:
    """Return the decimal that *value* stands for, rounded to 15 digits: SQLite's arithmetic errors are smaller."""
    return Decimal(f"{value:.{MAX_DIGITS}g}")


def fits(value: Decimal, scale: int) -> bool:
    """Return whether floats of that size distinguish numbers that differ in the last of *scale* digits."""
    return abs(value) < limit(scale)


def limit(scale: int) -> Decimal:
    """Return the smallest number that is too large for *scale* digits after the point."""
    return Decimal(1).scaleb(MAX_DIGITS - scale)
