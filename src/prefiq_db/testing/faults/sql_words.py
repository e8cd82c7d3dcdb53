"""Classify a statement as far as faults need it, without keeping any of its values."""

from __future__ import annotations

import re
from typing import Literal

Protocol = Literal["postgresql", "mariadb", "mongodb"]

_COMMENTS = r"(?P<comment>--[^\n]*|/\*.*?\*/{hash})"
_QUOTED = r"""(?P<quoted>"[^"]*"|`[^`]*`|{literals})"""
_POSTGRESQL_LITERALS = r"""[eE]'[^'\\]*(?:\\.[^'\\]*)*'|'[^']*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"""
_MARIADB_LITERALS = r"""'[^'\\]*(?:\\.[^'\\]*)*'"""

_HIDDEN: dict[Protocol, re.Pattern[str]] = {
    "postgresql": re.compile(_COMMENTS.format(hash="") + "|" + _QUOTED.format(literals=_POSTGRESQL_LITERALS), re.S),
    "mariadb": re.compile(_COMMENTS.format(hash=r"|\#[^\n]*") + "|" + _QUOTED.format(literals=_MARIADB_LITERALS), re.S),
}
_COMMIT: dict[Protocol, re.Pattern[str]] = {
    # In MariaDB an END closes a compound statement, such as our BEGIN.
    "postgresql": re.compile(
        r"(?:commit|end)(?:\s+(?:work|transaction))?(?:\s+and\s+(?:no\s+)?chain)?", re.I | re.ASCII
    ),
    "mariadb": re.compile(r"commit(?:\s+work)?(?:\s+and\s+(?:no\s+)?chain)?(?:\s+(?:no\s+)?release)?", re.I | re.ASCII),
}
_CLAIM = re.compile(rb"\binsert\b.*\binto\b.*\bprefiq_commit_token\b.*abandoned", re.I | re.S)
_BEGINNING = 2000
_WORD = re.compile(r"[a-z]+\b", re.I | re.ASCII)
# Only these are shown, because other text could be a value.
_KEYWORDS = re.compile(
    "alter|analyze|begin|call|commit|copy|create|declare|deallocate|delete|discard|do|drop|end|execute|explain|fetch"
    "|grant|insert|kill|listen|load|lock|merge|notify|prepare|release|replace|reset|revoke|rollback|savepoint|select"
    "|set|show|start|table|truncate|unlisten|update|use|vacuum|values|with|xa",
    re.I | re.ASCII,
)


def commits(sql: str, protocol: Protocol, *, in_transaction: bool = True) -> bool:
    """Return whether one of the statements in *sql* is a COMMIT, however it is written and commented.

    Outside a transaction it counts only after another statement, which may have begun one.
    """
    lowered = sql.lower()
    if "commit" not in lowered and "end" not in lowered:
        return False
    parts = _bare(sql, protocol).split(";")
    found = [number for number, part in enumerate(parts) if _COMMIT[protocol].fullmatch(part.strip())]
    return bool(found) and (in_transaction or any(part.strip() for part in parts[: found[-1]]))


def claims(raw: bytes) -> bool:
    """Return whether a message claims a commit token as abandoned; the word for it may be a parameter."""
    return b"prefiq_commit_token" in raw.lower() and _CLAIM.search(raw) is not None


def summary_word(sql: str, protocol: Protocol) -> str:
    """Return the first keyword of a statement in upper case, ``?`` if there is none."""
    found = _WORD.match(_bare(sql[:_BEGINNING], protocol).lstrip(" \t\r\n;("))
    return found[0].upper() if found and _KEYWORDS.fullmatch(found[0]) else "?"


def _bare(sql: str, protocol: Protocol) -> str:
    """Return *sql* without comments and with ``''`` for quoted text."""
    return _HIDDEN[protocol].sub(lambda match: " " if match["comment"] else "''", sql)
