"""SQL that a revision contains as text, in a form that the rules can read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from prefiq_db.dialects.rules import RULES
from prefiq_db.execution.sql_tokens import QUOTED, scan
from prefiq_db.products import PRODUCTS

_ROUTINE: Final = re.compile(r"(?:CREATE\b.*\b(?:TRIGGER|PROCEDURE|FUNCTION|EVENT|PACKAGE)|BEGIN|DO)\b", re.I)
_NAME_QUOTES: Final = {product.dialect: product.name_quotes for product in PRODUCTS.values()}


def split_statements(sql: str, dialect: str) -> list[str]:
    """Return the statements of a text, with single blanks, without comments and the insides of strings."""
    pieces = list(_split_pieces(sql, dialect))
    whole = _join(pieces)
    if _ROUTINE.match(whole):
        return [whole]  # the semicolons inside belong to it
    return [text for part in split(pieces, ";") if (text := _join(part))]


def _split_pieces(sql: str, dialect: str) -> Iterator[str]:
    tokens = scan(sql, RULES[dialect].lexis)
    end = 0
    for text, (start, stop) in zip(tokens.texts, tokens.spans, strict=True):
        piece = sql[start:stop]
        if text == QUOTED and _is_string(piece, dialect):
            piece = "''"
        # Join names with their schema, numbers and signs into one piece again.
        glued = end == start and not re.match(r"[(),;]", piece)
        yield f"\0{piece}" if glued else piece
        end = -1 if re.fullmatch(r"[(),;]", piece) else stop


def _is_string(piece: str, dialect: str) -> bool:
    return piece[0] not in _NAME_QUOTES[dialect]


def _join(pieces: Sequence[str]) -> str:
    return " ".join(pieces).replace(" \0", "").replace("\0", "").strip()


def split(pieces: Sequence[str], mark: str) -> Iterator[list[str]]:
    """Split at each *mark* outside parentheses."""
    depth = 0
    part: list[str] = []
    for piece in pieces:
        depth += {"(": 1, ")": -1}.get(piece, 0)
        if piece == mark and depth == 0:
            yield part
            part = []
        else:
            part.append(piece)
    yield part
