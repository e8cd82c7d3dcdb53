"""Conversion of Python values for each database: one table per dialect.

Every statement passes here, whoever sends it (a verb, a session, an engine's connection; text or Core; one row or many,
an element of a list), just before the driver gets the parameters. SQLAlchemy's types have converted theirs by then. A
value whose type is in no table is refused, naming the type: PyMySQL would store ``str(value)``, and sqlite3 the bytes
of anything that has a buffer.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import numbers
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NoReturn

from sqlalchemy import TextClause, TString
from sqlalchemy.sql.selectable import TextualSelect

from prefiq_db.dialects.sqlite_places import right_places
from prefiq_db.errors import UsageError
from prefiq_db.translation.refused_calls import REFUSERS
from prefiq_db.types import JSON_NULL
from prefiq_db.types.decimal_floats import DecimalFloat, float_of

Convert = Callable[[Any], Any]

#: Types that every driver takes unchanged, whatever the value.
PLAIN: Final = frozenset({str, int, bool, bytes, type(None)})
_INT64: Final = 2**63
_MAX_TIME: Final = dt.timedelta(hours=838, minutes=59, seconds=59, microseconds=999999)


class _RefusedError(Exception):
    """Why a value can't be passed, and what to do; it becomes a UsageError that names the bind.

    Attributes:
        kind: the type of the list element in question.
    """

    kind: type | None = None


def _refuse(reason: str) -> NoReturn:
    raise _RefusedError(reason)


# --- conversions -------------------------------------------------------------------------------------


def _as_it_is(value: Any) -> Any:
    return value


def _utc(value: dt.datetime) -> dt.datetime:
    """Return an aware time as naive UTC, the session's time zone; leave a naive one unchanged."""
    return value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)


def _time(value: dt.time) -> dt.time:
    return value if value.tzinfo is None else _refuse("a time of day with a zone: pass a datetime, or drop the zone")


def _finite(value: float) -> float:
    return value if math.isfinite(value) else _refuse("NaN or an infinity, which this database has no word for")


def _is_a_number(value: float) -> bool:
    return value == value  # only NaN isn't equal to itself


def _a_number(value: float) -> float:
    return value if _is_a_number(value) else _refuse("NaN, of which SQLite makes NULL")


# The most digits of a MariaDB decimal; a longer literal becomes a float.
_DIGITS: Final = 65


def _finite_decimal(value: Decimal) -> Decimal:
    if not value.is_finite():
        _refuse("NaN or an infinity, which this database has no word for")
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "it is finite"
    if max(len(digits) + max(exponent, 0), -exponent) > _DIGITS:
        _refuse(f"more than {_DIGITS} digits, of which this database makes a float: round it, or pass a float")
    return value


def _within_time(value: dt.timedelta) -> dt.timedelta:
    return value if abs(value) <= _MAX_TIME else _refuse("longer than a TIME of MariaDB can be: pass its seconds")


def _document(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        pass
    _refuse("it holds what JSON has no word for, such as a date, a set or NaN")


def json_text(value: Any) -> str:
    """Return *value* as JSON, for columns of SQLAlchemy's own type.

    Raises:
        UsageError: if JSON can't express it: Python writes NaN, which SQLite keeps and the others refuse to read.
    """
    try:
        return _document(value)
    except _RefusedError as refused:
        reason = str(refused)
    raise UsageError(f"JSON: a value of type {type(value).__name__} can't be stored: {reason}")


def _no_list(value: Any) -> NoReturn:
    _refuse("a list only expands behind IN, as in `id in :ids`; pass a JSON document as a dict, or as json.dumps(...)")


def _no_duration(value: Any) -> NoReturn:
    _refuse("SQLite has no durations: pass its seconds")


def _member(value: enum.Enum) -> Any:
    return "null" if value is JSON_NULL else value.value


# --- tables ------------------------------------------------------------------------------------------

_MARIADB: Final[dict[type, Convert]] = {
    float: _finite,
    Decimal: _finite_decimal,
    dt.datetime: _utc,
    dt.date: _as_it_is,
    dt.time: _time,
    dt.timedelta: _within_time,
    uuid.UUID: str,
    bytearray: bytes,
    memoryview: bytes,
    dict: _document,
    list: _no_list,
    tuple: _no_list,
}

_SQLITE: Final[dict[type, Convert]] = {
    float: _a_number,
    dt.datetime: lambda value: _utc(value).isoformat(sep=" ", timespec="microseconds"),
    dt.date: dt.date.isoformat,
    dt.time: lambda value: _time(value).isoformat(timespec="microseconds"),
    dt.timedelta: _no_duration,
    uuid.UUID: lambda value: value.hex,
    bytearray: bytes,
    memoryview: _as_it_is,
    dict: _document,
    list: _no_list,
    tuple: _no_list,
}

# psycopg handles all of these, arrays and ranges too, and raises for any other type.
_POSTGRESQL: Final[dict[type, Convert]] = {
    float: _as_it_is,
    Decimal: _as_it_is,
    dt.datetime: _as_it_is,
    dt.date: _as_it_is,
    dt.time: _as_it_is,
    dt.timedelta: _as_it_is,
    uuid.UUID: _as_it_is,
    bytearray: bytes,
    memoryview: bytes,
    dict: _document,
}

_BASES: Final[dict[type, Convert]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: bytes,
}


@dataclass(frozen=True)
class Values:
    """How a dialect converts values.

    Attributes:
        title: the database's name in messages.
        table: conversions for the types that its driver doesn't take unchanged.
        decimals: converts a Decimal where that depends on the statement; gets the value's position in it.
        lists: whether a list is one value, an array.
        floats: whether the database takes a float for a number; ``None``: it takes every one.
    """

    title: str
    table: Mapping[type, Convert]
    decimals: Callable[[Any, str, int, int, bool], Any] | None = None
    lists: bool = False
    floats: Callable[[float], bool] | None = None
    taken: frozenset[type] = field(init=False)
    taken_or_float: frozenset[type] = field(init=False)

    def __post_init__(self) -> None:
        always = {kind for kind, convert in self.table.items() if convert is _as_it_is}
        object.__setattr__(self, "taken", PLAIN | always)
        object.__setattr__(self, "taken_or_float", self.taken | {float})

    def takes(self, row: Collection[Any]) -> bool:
        """Return whether the driver takes each value of *row* as it is."""
        # Rows of floats are common; NaN and infinity are rare.
        return self.taken.issuperset(map(type, row)) or (
            self.floats is not None
            and self.taken_or_float.issuperset(map(type, row))
            and all(map(self.floats, [value for value in row if type(value) is float]))
        )

    def one(self, parameters: Any, statement: str, context: Any, knows: Callable[[Any, type], bool]) -> Any:
        """Return one row of *parameters* in the form that the driver takes.

        Raises:
            UsageError: for a value that can't be passed; it names the bind and the type, never the value.
        """
        row = parameters.values() if isinstance(parameters, dict) else parameters
        if not row or self.takes(row):
            return parameters
        return _Row(self, statement, context, knows, len(row)).converted(parameters)

    def many(self, rows: Sequence[Any], statement: str, context: Any, knows: Any) -> Any:
        """Return many rows, each as :meth:`one` does."""
        one = self.one
        return [one(row, statement, context, knows) for row in rows]

    def refuse_unknown(self, params: Any) -> None:
        """Raise if *params* holds a value that a column's type could not convert and that no database can store.

        Args:
            params: a row by names, or many; parameters without names are left to the type's own judgement.

        Raises:
            UsageError: the same error as for a value without a column type.
        """
        for row in params if isinstance(params, (list, tuple)) else (params,):
            for name, value in row.items() if isinstance(row, Mapping) else ():
                # Which decimals SQLite takes depends on their place, and here only their type is in question.
                if not isinstance(value, (Decimal, DecimalFloat)):
                    _Row(self, "", None, _knows_none, len(row)).converted({name: value})


class _Row:
    """One row to convert; it knows the binds' names for the error message."""

    def __init__(self, values: Values, statement: str, context: Any, knows: Any, width: int) -> None:
        self.values = values
        self.statement = statement
        self.context = context
        self.knows = knows
        self.width = width

    def converted(self, parameters: Any) -> Any:
        if isinstance(parameters, dict):
            return {name: self._value(value, name) for name, value in parameters.items()}
        return tuple(self._value(value, place) for place, value in enumerate(parameters))

    def _value(self, value: Any, place: Any) -> Any:
        try:
            return self._convert_value(value, place)
        except _RefusedError as refused:
            reason, kind = str(refused), refused.kind or type(value)
        raise UsageError(
            f"bind {_name(self.context, place)}: a value of type {kind.__name__} can't be passed to "
            f"{self.values.title}: {reason}"
        )

    def _convert_value(self, value: Any, place: Any) -> Any:
        kind, values = type(value), self.values
        if kind in PLAIN:
            return value
        convert = values.table.get(kind)
        if convert is not None:
            return convert(value)
        if values.decimals is not None and isinstance(value, (Decimal, DecimalFloat)):
            return values.decimals(value, self.statement, place, self.width, is_text(self.context))
        if values.lists and isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            # An array; psycopg would make a composite row of a tuple, which is equal to none of its elements.
            return [self._element(item, place) for item in value]
        if isinstance(value, enum.Enum):
            return self._convert_value(_member(value), place)
        return self._unknown(value, kind, place)

    def _element(self, item: Any, place: Any) -> Any:
        try:
            return self._convert_value(item, place)
        except _RefusedError as refused:
            refused.kind = refused.kind or type(item)
            raise

    def _unknown(self, value: Any, kind: type, place: Any) -> Any:
        """Return the conversion of a subclass of a known type, or of a foreign number type; refuse the rest."""
        for base in kind.__mro__[1:]:  # OrderedDict is handled as dict, pendulum.DateTime as datetime
            if base in _BASES:
                return self._convert_value(_BASES[base](value), place)
            if base in self.values.table:
                return self.values.table[base](value)
        if self.knows(self.context, kind):
            return value
        number = _number_of(value)
        if number is None:
            _refuse(_advice(value))
        return self._convert_value(number, place)


def _number_of(value: Any) -> int | float | bool | None:
    """Return *value* as a number if it behaves like one, as numpy's do; ``None`` if not, or if it loses digits."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(getattr(value, "dtype", None), "kind", "") in tuple("biuf"):
        found = item() if getattr(value, "ndim", 0) == 0 else None
        return found if type(found) in (bool, int, float) else None
    if isinstance(value, numbers.Integral) or hasattr(type(value), "__index__"):
        return int(value)
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational):
        return float(value)
    return None


def _advice(value: Any) -> str:
    if hasattr(value, "get_secret_value"):
        return "pass value.get_secret_value() if the secret is to be stored"
    if isinstance(value, (set, frozenset)):
        return "pass a list, which expands behind IN"
    if isinstance(value, Iterable):
        return "pass a list, or JSON as a dict"
    return "pass a str, a number, bytes, a date, a UUID or a dict, or give the column a type that makes one of it"


def _knows_none(context: Any, kind: type) -> bool:
    return False


_EXPANDED: Final = re.compile(r"_\d+(?:_\d+)?$")


def _name(context: Any, place: Any) -> str:
    """Return the bind's name in the statement; an element of a list has the list's name."""
    compiled = None if context is None else context.compiled
    if compiled is None:
        return repr(place) if isinstance(place, str) else f"number {place + 1}"
    if not isinstance(place, str):
        names = _positions(context)
        place = names[place] if place < len(names) else str(place + 1)
    base = _EXPANDED.sub("", place)
    return repr(base if place not in compiled.binds and base in compiled.binds else place)


def _positions(context: Any) -> list[str]:
    """Return the binds' names in the order of the parameters; a list's elements are called ``ids_1``, ``ids_2``."""
    given: Mapping[str, Any] = next(iter(context.compiled_parameters), {})
    names: list[str] = []
    for name in context.compiled.positiontup or ():
        elements = [each for each in given if re.fullmatch(rf"{re.escape(name)}_\d+(?:_\d+)?", each)]
        names.extend([name] if name in given or not elements else elements)
    return names


def is_text(context: Any) -> bool:
    """Return whether the statement is text written by hand, so that no compiler handled its decimals."""
    compiled = None if context is None else context.compiled
    return compiled is None or isinstance(compiled.statement, (TextClause, TString, TextualSelect))


# --- SQLite's decimals -------------------------------------------------------------------------------


def _sqlite_decimal(value: Any, statement: str, place: Any, width: int, text: bool) -> Any:
    """Return the number that SQLite compares and stores for *value*."""
    if isinstance(value, Decimal) or text:
        places = right_places(statement)
        # Named or numbered binds of the driver's own: we can't tell which is where.
        if len(places) != width or not isinstance(place, int) or not places[place]:
            _refuse(
                "it is compared or calculated there with what SQLite calculates in floats, which may be off by the "
                "last bit: write round(..., digits) around what is calculated, or say it in Core with ExactDecimal"
            )
    if isinstance(value, DecimalFloat):
        return float(value)
    if value.is_finite() and value == value.to_integral_value() and abs(value) < _INT64:
        # From 10**15 on an integer is exact, and a float isn't; below, a float divides as a decimal does.
        return float(value) if abs(value) < 10**15 else int(value)
    found = float_of(value)
    return _refuse("SQLite compares and stores numbers of at most 15 digits exactly") if found is None else float(found)


SQLITE: Final = Values("SQLite", _SQLITE, decimals=_sqlite_decimal, floats=_is_a_number)
MARIADB: Final = Values("MariaDB", _MARIADB, floats=math.isfinite)
POSTGRESQL: Final = Values("PostgreSQL", _POSTGRESQL, lists=True)

REFUSERS.update(sqlite=SQLITE.refuse_unknown, mariadb=MARIADB.refuse_unknown, postgresql=POSTGRESQL.refuse_unknown)
REFUSERS["mysql"] = MARIADB.refuse_unknown
