"""Compare decimals on SQLite, where they are texts, as the numbers that they are.

An operand becomes a key: a text that sorts as its number does. Digits before the point are padded on the left and those
after it on the right, and the digits of a negative number are exchanged for letters in the opposite order. Elsewhere
the operand is left alone.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from prefiq_db.errors import UsageError

_BEFORE, _AFTER = 66, 30
_WIDTH = _BEFORE + 1 + _AFTER
# '-' comes before every digit, and J (for 0) after A (for 9).
_NEGATIVE: Final = {str(digit): chr(ord("J") - digit) for digit in range(10)}
_NEGATIVE_TABLE: Final = str.maketrans(_NEGATIVE)

_ORDERS: Final = frozenset({operators.lt, operators.le, operators.gt, operators.ge})
_EQUALS: Final = frozenset({operators.eq, operators.ne})
_SORTS: Final = frozenset({operators.asc_op, operators.desc_op})


def numeric_order(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return what sorts a column of an exact decimal type as numbers, on SQLite too: ``order_by(numeric_order(c))``.

    ``c.asc()`` and ``c.desc()`` do so by themselves; only the bare ``order_by(c)`` can't.
    """
    return _Key(column, _scale_of(column))


def sort_key(value: Decimal) -> str:
    """Return a text that sorts as *value* does among others of up to 66 digits before and 30 after the point."""
    digits = format(value.copy_abs(), f".{_AFTER}f").rjust(_WIDTH, "0")
    return f"-{digits.translate(_NEGATIVE_TABLE)}" if value < 0 else digits


class _KeyType(TypeDecorator[Any]):
    """What a literal is bound as when it is compared with a key."""

    impl = sa.Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.String())
        return dialect.type_descriptor(sa.Numeric(asdecimal=True))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        # Here a literal may have more digits than the column: whether 1.5 is less than 1.55555 is a fair question.
        if isinstance(value, bool) or not isinstance(value, (Decimal, int)):
            raise UsageError(f"ExactDecimal: expected a Decimal or an int, not {type(value).__name__}")
        number = Decimal(value)
        if not number.is_finite() or number.adjusted() >= _BEFORE or number.as_tuple().exponent < -_AFTER:  # type: ignore[operator]
            raise UsageError(
                f"ExactDecimal: expected a number of at most {_BEFORE} and {_AFTER} digits to compare with"
            )
        return sort_key(number) if dialect.name == "sqlite" else number


class _Key(ColumnElement[Any]):
    """A decimal operand in a comparison or an order."""

    inherit_cache = True
    _traverse_internals = [  # noqa: RUF012 - SQLAlchemy reads it as it is
        ("operand", sa.sql.visitors.InternalTraversal.dp_clauseelement),
        ("scale", sa.sql.visitors.InternalTraversal.dp_plain_obj),
    ]

    def __init__(self, operand: ColumnElement[Any], scale: int) -> None:
        self.operand = operand
        self.scale = scale
        self.type = _KeyType()

    @property
    def _from_objects(self) -> Any:
        return self.operand._from_objects

    def self_group(self, against: Any = None) -> Any:
        return self


class ExactComparator(TypeDecorator.Comparator[Decimal]):
    """Compares by key where SQLite would compare texts; equal texts are equal numbers of the same scale."""

    def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
        compares = op in _ORDERS or op is operators.between_op or (op in _EQUALS and self._needs_key(other[0]))
        if compares or op in _SORTS:
            scale = _scale_of(self.expr)
            return op(_Key(self.expr, scale), *(_as_key(operand, scale) for operand in other), **kwargs)
        return super().operate(op, *other, **kwargs)

    def _needs_key(self, other: Any) -> bool:
        """Return whether equal numbers may be other texts: the other side is calculated, or of another scale."""
        if isinstance(other, sa.Null) or other is None:
            return False
        if not isinstance(other, ColumnElement) or isinstance(other, sa.BindParameter):
            return not _is_stored(self.expr)
        return _scale_of(other, None) != _scale_of(self.expr) or not (_is_stored(other) and _is_stored(self.expr))


def _as_key(other: Any, scale: int) -> Any:
    if not isinstance(other, ColumnElement) or isinstance(other, sa.BindParameter):
        return other
    # What has no scale, as a float or an unknown function, is looked at with the digits of our side.
    return _Key(other, _scale_of(other, scale))


def _is_stored(expression: ColumnElement[Any]) -> bool:
    return isinstance(expression, sa.ColumnClause)


def _scale_of(expression: ColumnElement[Any], default: Any = ...) -> Any:
    """Return how many digits after the point an operand has, or *default* when its type doesn't say."""
    if isinstance(expression.type, sa.Integer):
        return 0
    scale = getattr(expression.type, "scale", None)
    if isinstance(scale, int):
        return scale
    if default is ...:
        raise UsageError("numeric_order: expected a column of an exact decimal type")
    return default


@compiles(_Key)
def _plain(element: _Key, compiler: Any, **kwargs: Any) -> str:
    return str(compiler.process(element.operand, **kwargs))


@compiles(_Key, "sqlite")
def _padded(element: _Key, compiler: Any, **kwargs: Any) -> str:
    scale = element.scale
    value = compiler.process(element.operand, **kwargs)
    # What was calculated is a number, and what another program wrote may have fewer digits: printf makes it canonical.
    dot = f"instr(x, '.') = length(x) - {scale}" if scale else "instr(x, '.') = 0"
    canonical = (
        f"CASE WHEN x IS NULL THEN NULL WHEN typeof(x) = 'text' AND {dot} THEN x ELSE printf('%.{scale}f', x) END"
    )
    digits = f"ltrim(v, '-') || '{'' if scale else '.'}{'0' * (_AFTER - scale)}'"
    padded = f"substr('{'0' * _WIDTH}' || {digits}, -{_WIDTH})"
    letters = _nested(padded, list(_NEGATIVE.items()))
    is_negative = "substr(v, 1, 1) = '-' AND trim(v, '-0.') <> ''"  # printf writes -0.0000 for what is nearly nothing
    return (
        f"(SELECT CASE WHEN {is_negative} THEN '-' || {letters} ELSE {padded} END"
        f" FROM (SELECT {canonical} AS v FROM (SELECT {value} AS x)))"
    )


def _nested(sql: str, replacements: list[tuple[str, str]]) -> str:
    for old, new in replacements:
        sql = f"replace({sql}, '{old}', '{new}')"
    return sql
