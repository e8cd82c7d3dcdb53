"""JSON documents: every JSON value comes back unchanged, and JSON's null isn't SQL's."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from prefiq_db.errors import UsageError
from prefiq_db.products import dialects

# The limit of MariaDB's JSON_VALID, which its CHECK calls.
MAX_DEPTH: Final = 31

_WITHOUT_JSON: Final = dialects(where=lambda product: not product.has_json)
_IN_BYTES: Final = dialects(where=lambda product: product.sends_json_as_bytes)


class JsonNull(enum.Enum):
    """The type of :data:`JSON_NULL`."""

    JSON_NULL = "null"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "JSON_NULL"


#: A column that holds the JSON document ``null``; ``None`` is a column that holds nothing (SQL's NULL).
JSON_NULL: Final = JsonNull.JSON_NULL


class Json(TypeDecorator[Any]):
    """A JSON document: dict, list, str, int, float, bool, ``None`` inside them, and :data:`JSON_NULL` alone.

    ``JSON`` on PostgreSQL and MariaDB (there it is ``LONGTEXT`` with ``CHECK (json_valid(...))``), ``TEXT`` on SQLite.
    Not PostgreSQL's ``JSONB``, which rewrites numbers: 1e23 comes back as another one. ``None`` is SQL's NULL, both
    ways; the document ``null`` is :data:`JSON_NULL`. A tuple comes back as a list. ``column["key"].as_string()`` and
    the like work as with SQLAlchemy's type; whole documents can't be compared or sorted in SQL.

    Raises:
        UsageError: for NaN and infinities, keys that are not text, more than 31 levels, half a surrogate pair, and
            types that JSON can't express: dates, decimals, sets.
    """

    impl = sa.JSON
    cache_ok = True
    #: ``None`` is NULL, also in an ORM's INSERT.
    should_evaluate_none = False

    def __init__(self) -> None:
        super().__init__(none_as_null=True)

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        # SQLite treats a type called JSON as numeric: it would make the document 123 a number, and 2**70 a float.
        return dialect.type_descriptor(sa.Text() if dialect.name in _WITHOUT_JSON else sa.JSON(none_as_null=True))

    # Not process_bind_param: the drivers' own JSON types would encode and decode once more, and lose null.
    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], str | None]:
        return _encode

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any]:
        return _decode_bytes if dialect.name in _IN_BYTES else _decode

    def literal_processor(self, dialect: sa.Dialect) -> Callable[[Any], str]:
        quote: Callable[[str], str] = sa.String().literal_processor(dialect)  # type: ignore[no-untyped-call]

        def literal(value: Any) -> str:
            text = _encode(value)
            return "NULL" if text is None else quote(text)

        return literal

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return _Document(column)


class _Document(ColumnElement[Any]):
    """A selected document: as bytes on PostgreSQL, whose driver would return ``None`` for both nulls."""

    inherit_cache = True
    _traverse_internals = [("column", sa.sql.visitors.InternalTraversal.dp_clauseelement)]  # noqa: RUF012 - as SQLAlchemy reads it

    def __init__(self, column: ColumnElement[Any]) -> None:
        self.column = column
        self.type = column.type

    @property
    def _from_objects(self) -> Any:
        return self.column._from_objects


@compiles(_Document)
def _keep(element: _Document, compiler: Any, **kwargs: Any) -> str:
    return str(compiler.process(element.column, **kwargs))


@compiles(_Document, "postgresql")
def _as_bytes(element: _Document, compiler: Any, **kwargs: Any) -> str:
    return f"convert_to(CAST({compiler.process(element.column, **kwargs)} AS TEXT), 'UTF8')"


def _encode(value: Any) -> str | None:
    if value is None:
        return None
    if value is JSON_NULL or value is sa.JSON.NULL:
        return "null"
    problem = _problem(value, MAX_DEPTH)
    text = ""
    if problem is None:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            text.encode()
        except UnicodeEncodeError:
            problem = "half a surrogate pair, which is no text"
        except ValueError:
            problem = "a number that is too long"
    if problem is not None:
        raise UsageError(f"Json: expected what JSON can say; got {problem}")
    return text


def _decode(value: Any) -> Any:
    if value is None:
        return None
    document = json.loads(value)
    return JSON_NULL if document is None else document


def _decode_bytes(value: Any) -> Any:
    # Under text().columns(...) the driver was not asked for bytes and has already decoded the document.
    return _decode(value) if isinstance(value, bytes) else value


def _problem(value: Any, depth: int) -> str | None:
    """Return the type of the first part of *value* that isn't JSON; never a value or a key."""
    if value is None or isinstance(value, (str, int)):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else "NaN or an infinity"
    if isinstance(value, (list, tuple, dict)):
        if depth == 0:
            return f"more than {MAX_DEPTH} levels"
        if isinstance(value, dict) and any(not isinstance(key, str) for key in value):
            return "a key that is no text"
        inner = value.values() if isinstance(value, dict) else value
        return next(filter(None, (_problem(item, depth - 1) for item in inner)), None)
    return f"{type(value).__name__}"
