"""The scale of results when SQL calculates with exact decimals.

Comparing and sorting need nothing: equal numbers are equal, and smaller ones smaller, on every database. ``+``, ``-``
and ``*`` give a decimal with as many digits after the point as the exact result has; ``dialects/sqlite_decimals.py``
makes SQLite do the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ColumnElement, OperatorExpression
from sqlalchemy.types import TypeDecorator

from prefiq_db.errors import UsageError

_SUMS: Final = frozenset({operators.add, operators.sub})
CALCULATES: Final = _SUMS | {operators.mul}
#: Their results may have infinitely many digits, and each database stops after another number of them.
DIVIDES: Final = frozenset({operators.truediv, operators.floordiv, operators.mod})


def numeric_order(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return *column*, a column of an exact decimal type, which already sorts as numbers on every database.

    Only needed while SQLite kept decimals as texts; ``order_by(column)`` does the same.

    Raises:
        UsageError: if *column* is not a decimal.
    """
    if scale_of(column) is None:
        raise UsageError("numeric_order: expected a column of an exact decimal type")
    return column


def scale_of(expression: Any) -> int | None:
    """Return how many digits after the point an operand has; ``None`` if its type doesn't say."""
    type_ = expression.type
    if isinstance(type_, sa.Integer):
        return 0
    if isinstance(type_, sa.Float):
        return None
    scale = getattr(type_, "scale", None)
    return scale if isinstance(scale, int) else None


class ExactComparator(TypeDecorator.Comparator[Decimal]):
    """Operators whose results have the right scale."""

    def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
        return self._scale_result(op, super().operate(op, *other, **kwargs))

    def reverse_operate(self, op: Any, other: Any, **kwargs: Any) -> Any:
        return self._scale_result(op, super().reverse_operate(op, other, **kwargs))

    def _scale_result(self, op: Any, result: Any) -> Any:
        if op in CALCULATES | DIVIDES and isinstance(result, OperatorExpression):
            result.type = self.type._calculated_type(calculated_scale(op, operands(result)))  # type: ignore[attr-defined]
        return result


def operands(expression: OperatorExpression[Any]) -> list[Any]:
    """Return the operands: two, or more where one operator is repeated (``a + b + c``)."""
    if isinstance(expression, sa.BinaryExpression):
        return [expression.left, expression.right]
    return list(expression.clauses)


def calculated_scale(op: Any, parts: Sequence[Any]) -> int | None:
    """Return how many digits after the point the exact result has; ``None`` when an operand's type doesn't say."""
    return combined_scale(op, [scale_of(part) for part in parts])


def combined_scale(op: Any, scales: Sequence[int | None]) -> int | None:
    """Return the scale of *op*'s result for operands of those scales; ``None`` when it is unknown."""
    known = [scale for scale in scales if scale is not None]
    if op in DIVIDES or len(known) < len(scales):
        return None
    return max(known) if op in _SUMS else sum(known)
