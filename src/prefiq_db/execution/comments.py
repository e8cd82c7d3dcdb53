"""Comments at the end of a statement that name its sender, in sqlcommenter's format: ``/*app='shop',route='%2F'*/``.

The server's own tools (its slow log, ``pg_stat_activity``) show them. Use only tags with few distinct values: to the
server, and to a driver that prepares statements, each new comment makes a new statement.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final
from urllib.parse import quote

from prefiq_db.errors import UsageError

# Searched for everywhere, also inside literals: parsing them could go wrong, and a statement works without our
# comment.
_COMMENT_MARKS: Final = ("/*", "*/", "--")


def comment(sql: str, tags: Mapping[str, str], *, percent: str = "%") -> str:
    """Return *sql* with *tags* in a comment at its end: keys sorted, keys and values percent-encoded.

    Args:
        sql: unchanged if it already has a comment, or is blank.
        tags: those with an empty key or value are left out, and those that :class:`~prefiq_db.tags.Tags` keep back.
        percent: how the driver expects a percent sign: ``%%`` where ``%s`` is a bind marker.

    Raises:
        UsageError: if a key or value is not a string, has half a surrogate pair, or contains ``*/`` or ``/*``.
    """
    kept_back: Container[str] = getattr(tags, "kept_back", ())
    encoded = sorted((_percent_encode(key), _percent_encode(tags[key])) for key in tags if key not in kept_back)
    pairs = [f"{key}='{value}'" for key, value in encoded if key and value]
    if not pairs or any(mark in sql for mark in _COMMENT_MARKS):
        return sql
    statement = sql.rstrip().rstrip(";")
    if not statement.strip():
        return sql
    # Before a closing semicolon: some servers take what follows it for a second statement.
    rest = sql[len(statement) :]
    return f"{statement} /*{','.join(pairs).replace('%', percent)}*/{rest}"


def _percent_encode(text: object) -> str:
    if not isinstance(text, str):
        raise UsageError(f"tags: expected texts, not {type(text).__name__}")
    try:
        encoded = quote(text, safe="")
    except UnicodeEncodeError:
        encoded = None
    if encoded is None:
        raise UsageError("tags: a key or value has half a surrogate pair, which is no character")
    # Encoding would make both harmless; refuse them anyway, as an attempt to break out of the comment.
    if "*/" in text or "/*" in text:
        raise UsageError("tags: a key or value may not contain the marks of a comment")
    return encoded
