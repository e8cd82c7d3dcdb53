"""Exact decimals on SQLite: their column types, and how Core calculates with them.

A decimal is stored as the float closest to it (``types/decimal_floats.py``). Core's calculations go through our own SQL
functions, which every connection has: they return the float for the exact result, or fail if there is none.
Columns and CHECKs use none of them, so that other programs can read and write the file.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import weakref
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import partial
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler, SQLiteDDLCompiler, ischema_names
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.sql import operators
from sqlalchemy.sql.compiler import OPERATORS
from sqlalchemy.sql.sqltypes import _Binary

from prefiq_db.dialects.binary import Bytes
from prefiq_db.dialects.enums import QuietEnum
from prefiq_db.dialects.sqlite_scales import result_type, scaled
from prefiq_db.errors import PrefiqDbError, SchemaError, UnsupportedError
from prefiq_db.types import ExactDecimal
from prefiq_db.types.decimal_arithmetic import CALCULATES, DIVIDES, combined_scale, operands
from prefiq_db.types.decimal_floats import MAX_DIGITS, decimal_of, float_of
from prefiq_db.types.decimals import SQLITE_NAME, check_sql, exact_type

EXACT: Final = "prefiq_exact"
SUM: Final = "prefiq_sum_"
ANY_SCALE: Final = "any"
#: 10.0 ** 22 is the largest power of ten that a float holds exactly.
MAX_SCALE: Final = 22
_ROOMY: Final = Context(prec=400)


# --- functions ---------------------------------------------------------------------------------------


def _too_large() -> UnsupportedError:
    return UnsupportedError(
        f"SQLite calculates decimals of at most {MAX_DIGITS} digits, and this result has more; calculate it in Python, "
        "or on PostgreSQL or MariaDB"
    )


def _number(value: Any) -> float:
    if isinstance(value, (str, bytes)):
        raise text_column()
    return float(value)


def text_column(column: str = "a decimal column") -> SchemaError:
    return SchemaError(
        f"{column} of SQLite holds texts, not numbers: an earlier version of prefiq_db made it; run "
        "prefiq_db.migrate.decimals_to_numbers in a revision (docs/migrations.md)"
    )


def keeps_texts(declared: str) -> bool:
    """Return whether a column of that declared type converts numbers to texts, by SQLite's affinity rules."""
    upper = declared.upper()
    return "INT" not in upper and any(word in upper for word in ("CHAR", "CLOB", "TEXT"))


def _units(value: float, scale: int) -> int:
    """Return *value* in units of its last digit."""
    return round(value * 10.0**scale)


def _exact(value: Any, scale: int) -> float | None:
    """Return the float for the decimal of *scale* digits that is closest to *value*, a result of float arithmetic."""
    if value is None:
        return None
    number = _number(value)
    units = _units(number, scale) if math.isfinite(number) else 10**MAX_DIGITS
    if abs(units) >= 10**MAX_DIGITS:
        raise _too_large()
    return units / 10.0**scale


def _rounded(value: Any, digits: Any) -> Any:
    """Round the decimal behind a float, halves away from zero, as PostgreSQL and MariaDB round decimals.

    Negative *digits* round before the point: ``round(1234.5, -2)`` is 1200.
    """
    if value is None or digits is None:
        return None
    if not isinstance(value, (float, int)) or not math.isfinite(value):
        return value
    number, last = decimal_of(value) if isinstance(value, float) else Decimal(value), -int(digits)
    exponent = number.as_tuple().exponent
    if not number or not isinstance(exponent, int) or last <= exponent:
        # A calculated float may be off by its last bit, its decimal isn't; beyond 15 digits the decimal is unknown.
        return float(value) if number.adjusted() > MAX_DIGITS else float(number)
    if last > number.adjusted() + 1:
        return 0.0
    return float(number.quantize(Decimal(1).scaleb(last), ROUND_HALF_UP, _ROOMY))


def _any_scale(op: Callable[[Decimal, Decimal], Decimal], left: Any, right: Any) -> float | None:
    """Calculate with two decimals whose scale shows only in their values."""
    if left is None or right is None:
        return None
    return _standing_for(op(_decimal(left), _decimal(right)))


def _decimal(value: Any) -> Decimal:
    number = _number(value)
    if not math.isfinite(number):
        raise _too_large()
    return Decimal(value) if isinstance(value, int) else decimal_of(number)


def _standing_for(number: Decimal) -> float:
    found = float_of(number)
    if found is None:
        raise _too_large()
    return float(found)


class _Sum:
    """Add decimals of one scale, in whole units of the last digit."""

    __slots__ = ("count", "note", "scale", "units")

    def __init__(self, note: Callable[[PrefiqDbError], None], scale: int) -> None:
        self.note = note
        self.scale = scale
        self.units = 0
        self.count = 0

    def step(self, value: Any) -> None:
        self._add(value, 1)

    def inverse(self, value: Any) -> None:
        self._add(value, -1)

    def _add(self, value: Any, sign: int) -> None:
        if value is None:
            return
        try:
            self._add_number(value, sign)
        except PrefiqDbError as error:
            self.note(error)
            raise
        self.count += sign

    def _add_number(self, value: Any, sign: int) -> None:
        self.units += sign * _units(_number(value), self.scale)

    def _total(self) -> float:
        if abs(self.units) >= 10**MAX_DIGITS:
            raise _too_large()
        return self.units / 10.0**self.scale

    def value(self) -> float | None:
        if not self.count:
            return None
        try:
            return self._total()
        except PrefiqDbError as error:
            self.note(error)
            raise

    finalize = value


class _AnySum(_Sum):
    """Add decimals whose scale shows only in their values."""

    __slots__ = ("total",)

    def __init__(self, note: Callable[[PrefiqDbError], None]) -> None:
        super().__init__(note, 0)
        self.total = Decimal(0)

    def _add_number(self, value: Any, sign: int) -> None:
        self.total = _ROOMY.add(self.total, sign * _decimal(value))

    def _total(self) -> float:
        return _standing_for(self.total)


_ANY_SCALE: Final[dict[Any, tuple[str, Callable[[Decimal, Decimal], Decimal]]]] = {
    operators.add: (f"{EXACT}_add", _ROOMY.add),
    operators.sub: (f"{EXACT}_sub", _ROOMY.subtract),
    operators.mul: (f"{EXACT}_mul", _ROOMY.multiply),
}


def add_functions(connection: Any) -> None:
    """Register the functions for Core's decimals on a new connection, and a ``round`` that rounds decimals."""
    # A strong reference from one of its own functions would keep the connection open for ever.
    reference = weakref.ref(connection)

    def note(error: PrefiqDbError) -> None:
        """Keep the exception: sqlite3 reports only that there was one."""
        noting = reference()
        if noting is not None:
            noting.refusal = error

    def noted(function: Callable[..., float | None], *arguments: Any) -> float | None:
        try:
            return function(*arguments)
        except PrefiqDbError as error:
            note(error)
            raise

    connection.create_function(EXACT, 2, partial(noted, _exact), deterministic=True)
    for name, calculate in _ANY_SCALE.values():
        connection.create_function(name, 2, partial(noted, _any_scale, calculate), deterministic=True)
    connection.create_window_function(f"{SUM}{ANY_SCALE}", 1, partial(_AnySum, note))
    connection.create_function("round", 2, _rounded, deterministic=True)
    for scale in range(MAX_SCALE + 1):
        connection.create_window_function(f"{SUM}{scale}", 1, partial(_Sum, note, scale))


# --- SQL ---------------------------------------------------------------------------------------------


class DecimalCompiler(SQLiteCompiler):
    """Compiles arithmetic on exact decimals into calls of our functions.

    Attributes:
        decimal_columns: the tables and columns of exact decimals that the statement names.
    """

    decimal_columns: frozenset[tuple[str, str]] = frozenset()
    _selected_type: Any = None

    def visit_column(self, column: Any, *args: Any, **kwargs: Any) -> Any:
        if exact_type(column.type) is not None:
            self._note(column.table, column)
        return super().visit_column(column, *args, **kwargs)

    def visit_insert(self, insert_stmt: Any, *args: Any, **kwargs: Any) -> Any:
        self._note_all(insert_stmt.table)
        return super().visit_insert(insert_stmt, *args, **kwargs)  # type: ignore[no-untyped-call]

    def visit_update(self, update_stmt: Any, *args: Any, **kwargs: Any) -> Any:
        self._note_all(update_stmt.table)
        return super().visit_update(update_stmt, *args, **kwargs)

    def _note_all(self, table: Any) -> None:
        for column in table.columns:
            if exact_type(column.type) is not None:
                self._note(table, column)

    def _note(self, table: Any, column: Any) -> None:
        while isinstance(table, sa.Alias):
            table = table.element
        if isinstance(table, sa.TableClause):
            self.decimal_columns |= {(table.name, column.name)}

    def visit_binary(self, binary: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_exact(binary):
            return self._calculated(binary, **kwargs)
        return super().visit_binary(binary, *args, **kwargs)  # type: ignore[no-untyped-call]

    def visit_expression_clauselist(self, clauselist: Any, **kwargs: Any) -> Any:
        if _is_exact(clauselist):
            return self._calculated(clauselist, **kwargs)
        return super().visit_expression_clauselist(clauselist, **kwargs)  # type: ignore[no-untyped-call]

    def _calculated(self, expression: Any, **kwargs: Any) -> str:
        """Return the SQL of an expression, with a call for each operator, so that each result is a decimal again."""
        op, (first, *others) = expression.operator, operands(expression)
        if op in DIVIDES:
            raise UnsupportedError(
                "SQLite can't divide decimals exactly: divide in Python, or, where a float will do, "
                "cast the decimal to Double first"
            )
        sql, scales = self.process(first, **kwargs), [_scale_of(first)]
        for other in others:
            scales.append(_scale_of(other))
            sql = _call(op, sql, self.process(other, **kwargs), combined_scale(op, scales))
        return str(sql)

    def visit_sum_func(self, function: Any, **kwargs: Any) -> str:
        arguments = self.function_argspec(function, **kwargs)
        found = scaled(function)
        return f"{'sum' if found is None or not found.exact else _sum_of(found.scale)}{arguments}"

    def visit_cast(self, cast: Any, **kwargs: Any) -> Any:
        """Round where the type has fewer digits, as the other databases do; SQLite truncates, or keeps all digits."""
        type_, sql = exact_type(cast.type), super().visit_cast(cast, **kwargs)  # type: ignore[no-untyped-call]
        if type_ is not None and type_.scale is not None:
            return f"round({sql}, {type_.scale})"
        found = scaled(cast.clause) if isinstance(cast.type, sa.Integer) else None
        if found is not None and found.exact:
            return f"CAST(round({self.process(cast.clause, **kwargs)}, 0) AS INTEGER)"
        return sql

    def _label_select_column(self, select: Any, column: Any, *args: Any, **kwargs: Any) -> Any:
        outer, self._selected_type = self._selected_type, result_type(column)
        try:
            return super()._label_select_column(select, column, *args, **kwargs)  # type: ignore[no-untyped-call]
        finally:
            self._selected_type = outer

    def _add_to_result_map(self, keyname: str, name: str, objects: tuple[Any, ...], type_: Any) -> None:
        super()._add_to_result_map(keyname, name, objects, self._selected_type or type_)


def _is_exact(expression: Any) -> bool:
    if expression.operator in DIVIDES:
        parts = [scaled(each) for each in operands(expression)]
        return exact_type(expression.type) is not None or (all(parts) and any(each.exact for each in parts if each))
    if expression.operator not in CALCULATES:
        return False
    found = scaled(expression)
    return exact_type(expression.type) is not None or (found is not None and found.exact)


def _scale_of(operand: Any) -> int | None:
    found = scaled(operand)
    if found is None:
        raise _unknown_scale()
    return found.scale


def _call(op: Any, left: str, right: str, scale: int | None) -> str:
    """Return the call that calculates with two decimals, by their scale or, if it is unknown, by their values."""
    if scale is None:
        return f"{_ANY_SCALE[op][0]}({left}, {right})"
    return f"{EXACT}({left}{OPERATORS[op]}{right}, {_known(scale)})"


def _sum_of(scale: int | None) -> str:
    return f"{SUM}{ANY_SCALE if scale is None else _known(scale)}"


def _known(scale: int) -> int:
    if scale > MAX_SCALE:
        raise _unknown_scale()
    return scale


def _unknown_scale() -> UnsupportedError:
    return UnsupportedError(
        "SQLite calculates with an ExactDecimal, an Integer, a Decimal or an int exactly; the other side is none of "
        f"these, or the result has more than {MAX_SCALE} digits after the point: say what it is with "
        "type_coerce(..., ExactDecimal(precision, scale))"
    )


class DecimalDDLCompiler(SQLiteDDLCompiler):
    """Adds to a decimal column the CHECK that refuses floats without a decimal, as ``n + 0.2`` in a text may give."""

    def get_column_specification(self, column: Any, **kwargs: Any) -> str:
        text: str = super().get_column_specification(column, **kwargs)  # type: ignore[no-untyped-call]
        type_ = exact_type(column.type)
        if type_ is None or column.computed is not None:
            return text
        if type_.scale > MAX_SCALE:
            raise UnsupportedError(
                f"SQLite keeps decimals of at most {MAX_SCALE} digits after the point: column {column.name}"
            )
        return f"{text} {check_sql(self.preparer.format_column(column), type_.scale)}"


class _Numeric(sa.Numeric[Any]):
    """SQLAlchemy's own Numeric; passes a Decimal on unchanged: its place decides whether a float is exact enough."""

    def bind_processor(self, dialect: sa.Dialect) -> None:
        return None


class _InUtc:
    """SQLAlchemy's own DateTime drops the UTC offset, so it would store another instant."""

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any]:
        stored = super().bind_processor(dialect)  # type: ignore[misc]

        def process(value: Any) -> Any:
            aware = isinstance(value, dt.datetime) and value.tzinfo is not None
            return stored(value.astimezone(dt.UTC) if aware else value)

        return process


class _DateTime(_InUtc, sqlite.DATETIME):
    pass


_StoredTimestamp: Any = SQLiteDialect_pysqlite.colspecs[sa.TIMESTAMP]


class _Timestamp(_InUtc, _StoredTimestamp):  # type: ignore[misc]
    pass


# The form that check_sql() writes.
_OWN_CHECK: Final = re.compile(r"abs\((.+)\) < [\d.]+ AND \1 = round\(\1 \* 10*\.0\) / 10*\.0", re.I)


class DecimalSqlite:
    """Mixed in before a dialect of SQLite."""

    statement_compiler: Any = DecimalCompiler
    ddl_compiler: Any = DecimalDDLCompiler
    ischema_names: ClassVar[Any] = {**ischema_names, SQLITE_NAME: ExactDecimal}
    colspecs: ClassVar[Any] = {
        **SQLiteDialect_pysqlite.colspecs,
        _Binary: Bytes,
        sa.Enum: QuietEnum,
        sa.Numeric: _Numeric,
        sa.DateTime: _DateTime,
        sa.TIMESTAMP: _Timestamp,
    }

    def get_check_constraints(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Leave out the CHECKs that the type itself writes: a table that is created anew gets them from the type."""
        found = super().get_check_constraints(*args, **kwargs)  # type: ignore[misc]
        return [check for check in found if not _OWN_CHECK.fullmatch(check["sqltext"])]
