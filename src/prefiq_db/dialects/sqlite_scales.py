"""Which Core expressions give exact decimals on SQLite, and of which scale, even without a type from SQLAlchemy.

SQLAlchemy takes the type of ``CASE`` and ``coalesce`` from one of their branches, and gives ``round`` and ``abs`` none.
The other databases' drivers return the right type; on SQLite it is a float, and an addition must know that its floats
are decimals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.sql import elements, operators
from sqlalchemy.types import NullType

from prefiq_db.types.decimal_arithmetic import CALCULATES, combined_scale, operands, scale_of
from prefiq_db.types.decimals import ExactDecimal, Money, Operand, exact_type

#: The arguments that a function returns one of, by index; ``None``: any of them.
_GIVES: Final[dict[str, tuple[int, ...] | None]] = {
    **dict.fromkeys(("coalesce", "ifnull", "max", "min")),
    **dict.fromkeys(("sum", "round", "abs", "nullif", "first_value", "last_value", "nth_value", "floor", "ceil"), (0,)),
    "iif": (1, 2),
    "lag": (0, 2),
    "lead": (0, 2),
}
_ROOMY: Final = Context(prec=400)


@dataclass(frozen=True)
class Scaled:
    """A number in decimal arithmetic.

    Attributes:
        scale: how many digits after the point it has at most; ``None``: that depends on a bound value.
        exact: whether it is one of our decimals itself; else it is an integer, or a NUMERIC that isn't ours.
    """

    scale: int | None
    exact: bool


def scaled(expression: Any) -> Scaled | None:
    """Return what is known of the number that *expression* gives; ``None`` if it may be any float, or no number."""
    sources = _sources(expression)
    if sources is not None and not isinstance(expression.type, sa.Float):
        found = _one_of(sources)
        return _by_type(expression.type) if found is None else found
    if is_calculated(expression):
        return _calculated(expression)
    if isinstance(expression, sa.BindParameter) and type(expression.type) is sa.Numeric:
        return Scaled(None, exact=True)  # the statement is compiled once for all values
    return _by_type(expression.type)


def is_calculated(expression: Any) -> bool:
    calculated = isinstance(expression, (sa.BinaryExpression, elements.ExpressionClauseList))
    return calculated and expression.operator in CALCULATES


def _sources(expression: Any) -> list[Any] | None:
    """Return the expressions one of which *expression* returns unchanged or rounded; ``None`` for any other kind."""
    match expression:
        case sa.Label() | elements.Grouping() | elements.Over():
            return [expression.element]
        case elements.FunctionFilter():
            return [expression.func]
        case sa.ScalarSelect():
            return list(getattr(expression.element, "selected_columns", ()))[:1]
        case sa.UnaryExpression() if operators.neg in _both(expression) or operators.distinct_op in _both(expression):
            return [expression.element]
        case sa.Case():
            return [result for _, result in expression.whens] + [expression.else_]
        case sa.Function() if expression.name.lower() in _GIVES:
            arguments, places = list(expression.clauses), _GIVES[expression.name.lower()]
            return [each for place, each in enumerate(arguments) if places is None or place in places]
        case sa.ColumnClause():
            return list(getattr(expression, "_proxies", ())) or None
    return None


def _both(expression: Any) -> tuple[Any, Any]:
    return expression.operator, expression.modifier


def _one_of(sources: Iterable[Any]) -> Scaled | None:
    found = [scaled(each) for each in sources if each is not None and not isinstance(each, elements.Null)]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        return None
    return Scaled(combined_scale(operators.add, [each.scale for each in known]), any(each.exact for each in known))


def _calculated(expression: Any) -> Scaled | None:
    parts = [scaled(each) for each in operands(expression)]
    known = [each for each in parts if each is not None]
    if len(known) < len(parts):
        return None
    scale = combined_scale(expression.operator, [each.scale for each in known])
    return Scaled(scale, any(each.exact for each in known))


def _by_type(type_: Any) -> Scaled | None:
    exact = exact_type(type_)
    if exact is not None:
        return Scaled(exact.scale, exact=True)
    scale = scale_of(sa.literal_column("0", type_))
    return None if scale is None else Scaled(scale, exact=False)


class AtLeast(Operand):
    """A type with *least* digits after the point, or as many more as a bound value had."""

    cache_ok = True

    def __init__(self, least: int) -> None:
        super().__init__(None)
        self.least = least

    def _from_sqlite(self, value: Any) -> Decimal:
        number, unit = super()._from_sqlite(value), Decimal(1).scaleb(-self.least)
        padded = number.quantize(unit, context=_ROOMY)
        return padded if padded == number else number


def result_type(expression: Any) -> Operand | None:
    """Return the type of a selected *expression* if SQLAlchemy's is missing or wrong; ``None`` if it is right."""
    if isinstance(expression, sa.BindParameter):
        return None
    type_ = expression.type
    if type(type_) in (ExactDecimal, Money, Operand):
        found = scaled(expression) if type_.scale is not None else None
        wider = found is not None and (found.scale is None or found.scale > type_.scale)
        return AtLeast(type_.scale) if wider else None
    guessed = isinstance(type_, (NullType, sa.Integer)) or (type(type_) is sa.Numeric and type_.scale is None)
    found = scaled(expression) if guessed else None
    return Operand(found.scale) if found is not None and found.exact else None
