"""How PyMySQL and asyncmy write values into SQL, where the drivers' own conversion changes a value."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def plain_decimal(value: Decimal, mapping: Any = None) -> str:
    """Return a decimal literal: the server reads ``1E-7``, the result of ``str``, as a float."""
    return format(value, "f")


def conversions(of_driver: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the driver's conversions, but with decimals that stay decimals."""
    return {**of_driver, Decimal: plain_decimal}
