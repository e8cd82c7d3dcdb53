"""``:name`` in a string, a quoted name or a comment is no bind, though SQLAlchemy's ``text()`` takes it for one."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import TextClause

from prefiq_db.dialects.rules import RULES
from prefiq_db.execution.sql_tokens import scan
from prefiq_db.memory import Memory


class CarefulText(TextClause):
    """A text with binds that has to be read by the rules of its database before it is bound.

    It may have ``:name`` where that is no bind, or IN with a bind and no parentheses, where only a list makes sense.
    Other texts are spared that.
    """

    inherit_cache = True
    __visit_name__ = "textclause"


#: What may begin a string, a quoted name or a comment on any database, or stands before a list.
_CAREFUL: Final = re.compile(r"""['"`#\[$]|--|/\*|\bin\s*+:""", re.I)


def needs_care(made: TextClause) -> bool:
    """Return whether the text of *made* may be read differently from how SQLAlchemy read it."""
    return bool(made._bindparams) and _CAREFUL.search(made.text) is not None


def as_read(statement: CarefulText, dialect: str, kind: type[TextClause]) -> TextClause:
    """Return *statement* as a *kind* of text with only those binds that are binds by the rules of *dialect*.

    It keeps its execution options, such as those of a stream.
    """
    key = (statement.text, dialect)
    known = _known.kept.get(key)
    if known is None:
        escaped = _escaped(statement.text, dialect)
        known = _known.keep(key, kind(escaped), statement.text, escaped)
    options = statement._execution_options
    return known.execution_options(**options) if options else known


_known: Final[Memory[TextClause]] = Memory(1024)


def _escaped(sql: str, dialect: str) -> str:
    """Return *sql* with a backslash before each ``:name`` that is no bind, which SQLAlchemy removes again."""
    tokens = scan(sql, RULES[dialect].lexis)
    if tokens.doubtful:  # where a string ends depends on the server's mode
        return sql
    binds = {start for text, (start, _) in zip(tokens.texts, tokens.spans, strict=True) if text[0] == ":"}

    def written(found: re.Match[str]) -> str:
        return found.group() if found.start() in binds else rf"\{found.group()}"

    return TextClause._bind_params_regex.sub(written, sql)
