"""Statements that begin or end a transaction: directly, inside a block, or in a text that the server executes."""

from __future__ import annotations

import re
from typing import Final

from prefiq_db.dialects.rules import Rules
from prefiq_db.execution.sql_tokens import QUOTED, Tokens

_CONTROL: Final = frozenset({"begin", "commit", "rollback", "savepoint", "release", "end", "abort", "xa"})


def controls(words: list[str]) -> bool:
    """Return whether a statement begins or ends a transaction."""
    first, second = words[0], words[1] if len(words) > 1 else ""
    if first == "set":  # on MariaDB, switching autocommit on commits
        return "autocommit" in words
    if first in ("prepare", "start"):
        return second == "transaction"
    # MariaDB's compound block begins with BEGIN NOT ATOMIC; it is one statement.
    return first in _CONTROL and not (first == "begin" and second == "not")


def is_compound(words: list[str], rules: Rules) -> bool:
    """Return whether it is a compound block, which the server executes as one statement."""
    return words[:2] == ["begin", "not"] or words[0] in rules.structures


def controls_within(texts: list[str]) -> bool:
    """Return whether a block contains COMMIT, ROLLBACK, START TRANSACTION and the like, at any place."""
    for place, text in enumerate(texts):
        following, before = (texts[place + 1 : place + 2] or [""])[0], texts[place - 1] if place else ";"
        if text in ("commit", "rollback", "xa", "autocommit") and before != "." and following != ".":
            return True
        if (text == "savepoint" and before != ".") or (text == "start" and following == "transaction"):
            return True
    return False


# Inside a block, a statement begins after these.
_BEFORE_STATEMENT: Final = frozenset({";", "atomic", "begin", "then", "else", "do", "loop", "repeat"})
# These can't be column names without quotes.
_RESERVED: Final = frozenset({"create", "alter", "drop", "grant", "revoke", "rename"})


def committing_word(words: list[str], texts: list[str], rules: Rules, compound: bool, temporary: bool) -> str:
    """Return the word that would commit the open transaction."""
    if not compound:
        return words[0] if rules.commits_by_itself(words) and not temporary else ""
    for place, text in enumerate(texts):
        begins = text in _RESERVED or (place and texts[place - 1] in _BEFORE_STATEMENT)
        rest = texts[place : place + 8]
        if begins and rules.commits_by_itself(rest) and not makes_or_drops_temporary(rest):
            return text
    return ""


def is_dynamic(words: list[str], compound: bool) -> bool:
    return words[0] in ("execute", "prepare") or (compound and not {"execute", "prepare"}.isdisjoint(words))


def inner_statement(tokens: Tokens, sql: str, words: list[str]) -> str | None:
    """Return the statement in EXECUTE IMMEDIATE '...' or PREPARE name FROM '...', if it is a single literal."""
    texts = tokens.texts
    if words[:2] != ["execute", "immediate"] and not (words[0] == "prepare" and "from" in texts[2:3]):
        return None
    place = 2 if words[0] == "execute" else 3
    if texts[place : place + 1] != [QUOTED] or texts[place + 1 : place + 2] not in ([], ["using"]):
        return None
    start, end = tokens.spans[place]
    quote = sql[start]
    return _ESCAPE.sub(_unescape, sql[start + 1 : end - 1]) if quote in "'\"" else None


_ESCAPE: Final = re.compile(r"\\(.)|''|\"\"", re.S)
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}


def _unescape(match: re.Match[str]) -> str:
    escaped = match[1]
    return match.group()[0] if escaped is None else _ESCAPED.get(escaped, escaped)


def makes_or_drops_temporary(words: list[str]) -> bool:
    """Return whether it is CREATE [OR REPLACE] [LOCAL | GLOBAL] TEMPORARY, or DROP TEMPORARY."""
    kind = next((word for word in words[1:] if word not in ("or", "replace", "local", "global")), "")
    return words[0] in ("create", "drop") and kind in ("temporary", "temp")
