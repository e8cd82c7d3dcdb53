"""Comments at the end of a statement that say who sent it, as sqlcommenter writes them: ``/*app='shop',route='%2F'*/``.

The server's own tools (its slow log, ``pg_stat_activity``) show them. Only for tags of few values: a statement with a
comment that is new each time is a new statement to the server and to a driver that prepares statements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from prefiq_db.errors import UsageError

# Looked for anywhere, also inside of literals: telling them apart is not worth a mistake, and a statement without a
# comment works just as well.
_COMMENT_MARKS: Final = ("/*", "*/", "--")


def comment(sql: str, tags: Mapping[str, str], *, percent: str = "%") -> str:
    """Return *sql* with *tags* in a comment at its end: keys sorted, keys and values percent-encoded.

    Args:
        sql: left as it is when it has a comment already, or is blank.
        tags: left out when the key or value is empty.
        percent: how the driver wants a percent sign: ``%%`` where ``%s`` is a bind marker.

    Raises:
        UsageError: if a key or value is no text, has half a surrogate pair, or contains ``*/`` or ``/*``.
    """
    encoded = sorted((_encoded(key), _encoded(value)) for key, value in tags.items())
    pairs = [f"{key}='{value}'" for key, value in encoded if key and value]
    if not pairs or any(mark in sql for mark in _COMMENT_MARKS):
        return sql
    statement = sql.rstrip().rstrip(";")
    if not statement.strip():
        return sql
    # Before a closing semicolon: what stands behind it would be a second statement to some servers.
    rest = sql[len(statement) :]
    return f"{statement} /*{','.join(pairs).replace('%', percent)}*/{rest}"


def _encoded(text: object) -> str:
    if not isinstance(text, str):
        raise UsageError(f"tags: expected texts, not {type(text).__name__}")
    try:
        encoded = quote(text, safe="")
    except UnicodeEncodeError:
        encoded = None
    if encoded is None:
        raise UsageError("tags: a key or value has half a surrogate pair, which is no character")
    # Encoding alone would make both harmless; whoever sends them tries to break out of the comment.
    if "*/" in text or "/*" in text:
        raise UsageError("tags: a key or value may not contain the marks of a comment")
    return encoded
