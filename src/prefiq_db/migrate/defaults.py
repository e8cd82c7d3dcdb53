"""Server defaults, as metadata says them and as each database tells them back, in one form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

_QUOTED: Final = re.compile(r"^[nN]?'((?:[^'\\]|''|\\.)*)'$", re.S)
_CAST: Final = re.compile(r"""::\s*(?:"[^"]+"|[a-z_]\w*)(?:[\w. ]|\([\d, ]*\))*(?:\[\])?$""", re.I)
# Digits in the parentheses are those of the second, and always the column's own.
_NOW: Final = re.compile(r"(?:now|current_timestamp|localtimestamp)(?: ?\(\d*\))?")
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d*)?")
_TRUE: Final = frozenset({"1", "true", "t", "b'1'"})
_FALSE: Final = frozenset({"0", "false", "f", "b'0'"})


@dataclass(frozen=True, slots=True)
class Literal:
    """A default that is a value: a number, a truth value or a text."""

    value: Decimal | bool | str


@dataclass(frozen=True, slots=True)
class Expression:
    """A default that the server calculates."""

    sql: str


Default = Literal | Expression


def default_of(clause: Any, type_: TypeEngine[Any], dialect: sa.Dialect) -> Default | None:
    """Return the default that *clause* (a ``Column.server_default``) says; ``None``: none, or no such kind.

    Identity and computed columns are no such kind: Alembic compares them by itself.
    """
    if not isinstance(clause, sa.DefaultClause):
        return None
    if isinstance(clause.arg, str):  # a plain text in metadata: SQLAlchemy will quote it
        return _valued(clause.arg, type_, dialect)
    compiled = clause.arg.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    # Drivers that format get '%%' for one '%'; the server stores one.
    text = str(compiled).replace("%%", "%") if dialect.paramstyle in ("format", "pyformat") else str(compiled)
    return parsed(text, type_, dialect)


def parsed(sql: str, type_: TypeEngine[Any], dialect: sa.Dialect) -> Default:
    """Return what *sql* (an expression after DEFAULT) means for a column of *type_*."""
    text = _bare(sql.strip())
    if quoted := _QUOTED.match(text):
        return _valued(_unquoted(quoted[1], dialect), type_, dialect)
    if _NUMBER.fullmatch(text) or text.lower() in _TRUE | _FALSE:
        return _valued(text, type_, dialect)
    return Expression(_normal(text))


def _valued(text: str, type_: TypeEngine[Any], dialect: sa.Dialect) -> Literal:
    affinity = type_._type_affinity
    if affinity is not None and issubclass(affinity, sa.Boolean) and text.lower() in _TRUE | _FALSE:
        return Literal(text.lower() in _TRUE)
    if _counts(type_, dialect):
        try:
            return Literal(Decimal(text))
        except InvalidOperation:
            pass
    return Literal(text)


def _counts(type_: TypeEngine[Any], dialect: sa.Dialect) -> bool:
    """Return whether the column holds numbers; an exact decimal of SQLite is a text, and '0' isn't '0.00' there."""
    affinity = type_.dialect_impl(dialect)._type_affinity
    implementation = getattr(type_.dialect_impl(dialect), "impl_instance", None)
    if implementation is not None:
        affinity = implementation._type_affinity
    return affinity is not None and issubclass(affinity, (sa.Integer, sa.Numeric, sa.Float))


def _bare(text: str) -> str:
    """Return *text* without the parentheses and casts around all of it."""
    while True:
        shorter = text
        if text.startswith("(") and _closes_at(text) == len(text) - 1:
            shorter = text[1:-1].strip()
        elif cast := _CAST.search(text):
            before = text[: cast.start()].strip()
            if _QUOTED.match(before) or _NUMBER.fullmatch(before) or before.startswith("("):
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


def _unquoted(text: str, dialect: sa.Dialect) -> str:
    if dialect.name in ("mysql", "mariadb"):
        text = re.sub(r"\\(.)", r"\1", text, flags=re.S)
    return text.replace("''", "'")


def _normal(sql: str) -> str:
    """Return an expression in small letters (outside quotes) with single blanks, and all words for now as one."""
    parts = re.split(r"('(?:[^']|'')*')", sql)
    lowered = "".join(part if i % 2 else re.sub(r"\s+", " ", part).lower() for i, part in enumerate(parts)).strip()
    return "current_timestamp" if _NOW.fullmatch(lowered) else lowered
