"""Template strings (Python 3.14) as statements: every value becomes a bind, wherever it came from.

SQLAlchemy's ``tstring()`` makes the statement, so a template may have columns, tables and other constructs in it, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import BindParameter, TString
from sqlalchemy.sql.elements import ClauseElement, _TStringText
from sqlalchemy.types import NullType
from sqlalchemy.util.compat import (
    Template as Template,
)  # that of string.templatelib, or a stand-in where Python has none

from prefiq_db.dialects.rules import RULES
from prefiq_db.errors import UsageError
from prefiq_db.execution.in_places import check_number, expand, is_list, places_of
from prefiq_db.execution.sql_tokens import scan
from prefiq_db.memory import Memory


class LongTemplate(TString):
    """A template that SQLAlchemy compiles anew each time."""

    inherit_cache = False
    __visit_name__ = "tstring"


def as_tstring(template: Any, longest_compiled: int) -> TString:
    """Return the statement of *template*; SQLAlchemy caches its compiled form if it isn't too long.

    A value gets no type from SQLAlchemy: as with ``:name`` in a text, the driver decides.

    Raises:
        UsageError: if a value is to be formatted, as in ``{price:.2f}``: it is sent as it is.
    """
    pieces = [piece if isinstance(piece, str) else _as_element(piece) for piece in _flat(template)]
    length = sum(len(piece) for piece in pieces if isinstance(piece, str))
    return (TString if length <= longest_compiled else LongTemplate)(Template(*pieces))


def _flat(template: Any) -> Iterator[Any]:
    """Return the parts of *template*, and those of templates in it in their places."""
    for piece in template:
        if not isinstance(piece, str) and isinstance(piece.value, Template):
            yield from _flat(piece.value)
        else:
            yield piece


def _as_element(piece: Any) -> Any:
    """Return an interpolation with a bind for its value, unless that is a construct already."""
    if piece.conversion is not None or piece.format_spec:
        raise UsageError(
            "statement: a value in a template string is sent as it is: format it before, and outside of it"
        )
    value = piece.value
    if isinstance(value, ClauseElement) or hasattr(value, "__clause_element__"):
        return piece
    name = piece.expression if piece.expression.isidentifier() else None
    return type(piece)(BindParameter(name, value, NullType(), unique=True), piece.expression)


# --- what depends on the database ----------------------------------------------------------------


def bind_template(statement: TString, dialect: str) -> TString:
    """Return *statement* with a bind for each element of a list in ``IN {ids}`` or ``IN ({ids})``.

    Raises:
        UsageError: if an interpolation stands in a string, a quoted name or a comment.
        ResourceError: if the lists have more elements than the database takes.
    """
    sql, marked = _marked(statement)
    if not marked.keys() <= _marks_outside(sql, dialect):
        raise UsageError(
            "statement: a value of the template string stands in quotes or in a comment; a value needs no quotes, and "
            "LIKE takes the whole pattern as a value"
        )
    places = places_of(sql, dialect)
    given = {mark: part.value for mark, part in marked.items() if _is_value(part)}
    lists = frozenset(mark for mark in given.keys() & places.keys() if is_list(mark, given[mark], places[mark]))
    if not lists:
        return statement
    check_number(lists, given, dialect)
    empty = frozenset(mark for mark in lists if not given[mark])
    marked |= {mark: _expanding(marked[mark]) for mark in lists}
    pieces = re.split(rf":({'|'.join(marked)})\b", expand(sql, dialect, lists, empty))
    made: TString = statement._generate()
    made.parts = [marked[piece] if number % 2 else _TStringText(piece) for number, piece in enumerate(pieces) if piece]
    return made


def _is_value(part: Any) -> bool:
    """Return whether *part* is a bind that :func:`as_tstring` made of a value."""
    return isinstance(part, BindParameter) and part.unique and part.type._isnull and not part.expanding


def _expanding(bind: Any) -> Any:
    return BindParameter(bind._orig_key, list(bind.value), NullType(), unique=True, expanding=True)


def _marked(statement: TString) -> tuple[str, dict[str, Any]]:
    """Return the text with a mark, as ``:ids``, for each part that is no text; and those parts by the marks' names."""
    marked: dict[str, Any] = {}
    written = "".join(part.text for part in statement.parts if isinstance(part, _TStringText))
    pieces = []
    for part in statement.parts:
        if isinstance(part, _TStringText):
            pieces.append(part.text)
            continue
        mark = getattr(part, "_orig_key", None) or "value"
        while mark in marked or f":{mark}" in written:
            mark += "_"
        marked[mark] = part
        pieces.append(f" :{mark} ")  # apart from what stands beside it
    return "".join(pieces), marked


def _marks_outside(sql: str, dialect: str) -> frozenset[str]:
    """Return the names in *sql* that stand outside of quotes and comments, marks among them."""
    known = _known.kept.get((sql, dialect))
    if known is None:
        texts = scan(sql, RULES[dialect].lexis).texts
        known = frozenset(text[1:] for text in texts if text[0] == ":")
        _known.keep((sql, dialect), known, sql)
    return known


_known: Final[Memory[frozenset[str]]] = Memory(1024)
