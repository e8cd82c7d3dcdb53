"""Whether a text can stand in a block of statements, as MariaDB has them, without reaching out of its place.

In a block semicolons part the statements. So each must be one statement to its very end: no string and no comment may
be left open, or it would swallow those behind it, and no semicolon may be in it, or it could end the block. What can't
be seen for certain is sent by itself.
"""

from __future__ import annotations

import re
from typing import Any, Final

from prefiq_db.dialects.rules import RULES
from prefiq_db.execution.sql_tokens import Tokens, scan
from prefiq_db.execution.statement_facts import TRAVELLING, Facts
from prefiq_db.execution.tied_statements import LOCK_REASON
from prefiq_db.memory import Memory

# Statements that mean in a block what they mean alone.
_FIRST: Final = frozenset({"select", "insert", "update", "delete", "replace", "with", "values"})
# A comment for one reader and two minus signs for another: MariaDB looks at the byte that follows, and wants a blank or
# a control character of ASCII there.
_UNCLEAR_DASHES: Final = re.compile(r"--(?![ \t\r\n]|\Z)")
# Appended to the text: if it isn't seen as a word there, something before it was left open.
_SENTINEL: Final = "prefiq_end_of_text"


def enclosed(sql: str, label: str) -> str | None:
    """Return *sql* as it can stand in a block, without a semicolon at its end; ``None`` if it can't."""
    key = (sql, label)
    known = _known.kept.get(key)
    if known is None:
        known = _known.keep(key, _enclosed(sql, label) or "", sql)
    return known or None


_known: Final[Memory[str]] = Memory(1024)


def may_travel(facts: Facts, statement: str, dialect: Any) -> bool:
    """Return whether *statement* may be sent in company: where that is one text, it is one statement to its very end.

    It must not ask about the one before it, either.
    """
    if facts.verb not in TRAVELLING:
        return False
    if not dialect.travels_in_text:
        return True
    return facts.no_tomorrow in ("", LOCK_REASON) and enclosed(statement, dialect.label) == statement


def _enclosed(sql: str, label: str) -> str | None:
    lexis = RULES[label].lexis
    if _SENTINEL in sql.lower() or _UNCLEAR_DASHES.search(sql):
        return None
    tokens = scan(f"{sql}\n{_SENTINEL}", lexis)
    if tokens.doubtful or tokens.code_comment or tokens.texts[-1] != _SENTINEL or "/*" in sql:
        return None
    texts = tokens.texts[:-1]
    end = len(sql)
    while texts and texts[-1] == ";":
        texts.pop()
        end = tokens.spans[len(texts)][0]
    if ";" in texts or not _begins(tokens):
        return None
    return sql[:end]


def _begins(tokens: Tokens) -> bool:
    first = next((text for text in tokens.texts if text != "("), "")
    return first in _FIRST
