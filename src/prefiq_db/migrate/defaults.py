"""Server defaults in one form, whether they come from metadata or from a database."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

from prefiq_db.products import dialects

_QUOTED: Final = re.compile(r"^[nN]?'((?:[^'\\]|''|\\.)*)'$", re.S)
_CAST: Final = re.compile(r"""::\s*(?:"[^"]+"|[a-z_]\w*)(?:[\w. ]|\([\d, ]*\))*(?:\[\])?$""", re.I)
# The digits in parentheses are fractional digits of seconds, and always the column's own.
_NOW: Final = re.compile(r"(?:now|current_timestamp|localtimestamp)(?: ?\(\d*\))?")
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d*)?")
_TYPED: Final = re.compile(r"^(?:date|time|timestamp)\s*(?=')", re.I)
# What text() takes for a bind, and for an escaped colon.
_BINDS: Final = re.compile(r"(?<![:\w\x5c]):(?=\w+(?![:\w]))")
_ESCAPES: Final = re.compile(r"\x5c(?=:\w*(?![:\w]))")
_TRUE: Final = frozenset({"1", "true", "t", "b'1'"})
_FALSE: Final = frozenset({"0", "false", "f", "b'0'"})
_MYSQL: Final = dialects(where=lambda product: product.speaks_mysql)
_SAME_WORDS: Final = {"curdate()": "current_date", "curtime()": "current_time"}
_AROUND_SIGNS: Final = re.compile(r" ?([^\w ']) ?")
_MYSQL_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "Z": "\x1a", "b": "\b"}
#: How to convert a text to the column's value, where the server reports values and not the SQL that was written.
_READ: Final[Mapping[type, Callable[[str], object]]] = {
    sa.DateTime: dt.datetime.fromisoformat,
    sa.Date: dt.date.fromisoformat,
    sa.Time: dt.time.fromisoformat,
    sa.Uuid: uuid.UUID,
}


@dataclass(frozen=True, slots=True)
class Literal:
    """A default that is a value: a number, a truth value or a text."""

    value: object


@dataclass(frozen=True, slots=True)
class Expression:
    """A default that the server calculates."""

    sql: str


Default = Literal | Expression
NULL: Final = Expression("null")  # the same as no default


def read_default(clause: Any, type_: TypeEngine[Any], dialect: sa.Dialect) -> Default | None:
    """Return the default in *clause* (a ``Column.server_default``); ``None``: none, or another kind.

    Identity and computed columns are another kind: they are compared separately.
    """
    if not isinstance(clause, sa.DefaultClause):
        return None
    if isinstance(clause.arg, str):  # a plain text in metadata: SQLAlchemy will quote it
        return _make_literal(clause.arg, type_, dialect)
    return parse_default(default_sql(clause, dialect), type_, dialect)


def default_sql(clause: Any, dialect: sa.Dialect) -> str:
    """Return the SQL behind DEFAULT."""
    if isinstance(clause.arg, str):
        return "'" + clause.arg.replace("'", "''") + "'"
    return read_reported_sql(clause.arg) if clause.reflected else compile_sql(clause.arg, dialect)


def read_reported_sql(clause: Any) -> str:
    """Return the SQL as the database reported it; SQLAlchemy wraps it in ``text()``, where ``:word`` is a bind."""
    return str(clause.text)


def compile_sql(clause: Any, dialect: sa.Dialect) -> str:
    """Return an expression of the metadata as CREATE TABLE would contain it."""
    compiler: Any = dialect.ddl_compiler(dialect, None).sql_compiler  # type: ignore[arg-type]
    text: str = compiler.process(clause, literal_binds=True, include_table=False)
    # Drivers with format parameters get '%%' for one '%'; the server stores one.
    return text.replace("%%", "%") if dialect.paramstyle in ("format", "pyformat") else text


def as_text_clause(sql: str) -> str:
    """Return *sql* escaped for ``text()``: a colon before a word is no bind, and no backslash is lost."""
    return _BINDS.sub(r"\\:", _ESCAPES.sub(r"\\\g<0>", sql))


def parse_default(sql: str, type_: TypeEngine[Any], dialect: sa.Dialect) -> Default:
    """Return what *sql* (an expression after DEFAULT) means for a column of *type_*."""
    text = _strip(sql.strip())
    if dialect.name in _MYSQL:
        text = _TYPED.sub("", text)
    if quoted := _QUOTED.match(text):
        return _make_literal(_unquote(quoted[1], dialect), type_, dialect)
    if _NUMBER.fullmatch(text) or text.lower() in _TRUE | _FALSE:
        return _make_literal(text, type_, dialect)
    return Expression(_normalize(text, dialect))


def _make_literal(text: str, type_: TypeEngine[Any], dialect: sa.Dialect) -> Literal:
    affinity = type_._type_affinity
    if affinity is not None and issubclass(affinity, sa.Boolean) and text.lower() in _TRUE | _FALSE:
        return Literal(text.lower() in _TRUE)
    if _counts(type_, dialect):
        try:
            return Literal(Decimal(text))
        except InvalidOperation:
            pass
    return Literal(_read(text, affinity) if dialect.name in _MYSQL else text)


def _read(text: str, affinity: Any) -> object:
    """Return the moment or UUID that the server reads from a text, or the text."""
    read = _READ.get(affinity, str)
    try:
        return read(text)
    except ValueError:
        return text


def _counts(type_: TypeEngine[Any], dialect: sa.Dialect) -> bool:
    """Return whether *dialect* stores numbers in the column; then the defaults '0' and '0.00' are equal."""
    affinity = type_.dialect_impl(dialect)._type_affinity
    implementation = getattr(type_.dialect_impl(dialect), "impl_instance", None)
    if implementation is not None:
        affinity = implementation._type_affinity
    return affinity is not None and issubclass(affinity, (sa.Integer, sa.Numeric, sa.Float))


def _strip(text: str) -> str:
    """Return *text* without the parentheses and casts around all of it."""
    while True:
        shorter = text
        if text.startswith("(") and _closes_at(text) == len(text) - 1:
            shorter = text[1:-1].strip()
        elif cast := _CAST.search(text):
            before = text[: cast.start()].strip()
            if _QUOTED.match(before) or _NUMBER.fullmatch(before) or before.startswith("(") or before.lower() == "null":
                shorter = before
        if shorter == text:
            return text
        text = shorter


def _closes_at(text: str) -> int:
    depth, quoted = 0, False
    for place, letter in enumerate(text):
        if letter == "'":
            quoted = not quoted
        elif not quoted:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if depth == 0:
                return place
    return -1


def _unquote(text: str, dialect: sa.Dialect) -> str:
    if dialect.name in _MYSQL:
        text = re.sub(r"\\(.)", lambda found: _MYSQL_ESCAPES.get(found[1], found[1]), text, flags=re.S)
    return text.replace("''", "'")


def _normalize(sql: str, dialect: sa.Dialect) -> str:
    """Return an expression in lower case with single blanks (outside quotes), and each moment in one word."""
    parts = re.split(r"('(?:[^']|'')*')", sql)
    lowered = "".join(part if i % 2 else re.sub(r"\s+", " ", part).lower() for i, part in enumerate(parts)).strip()
    if dialect.name in _MYSQL:
        lowered = _AROUND_SIGNS.sub(r"\1", _SAME_WORDS.get(lowered, lowered))
    return "current_timestamp" if _NOW.fullmatch(lowered) else lowered
