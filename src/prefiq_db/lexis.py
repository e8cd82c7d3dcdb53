"""The syntax of strings, names and comments of each database: enough to find where each ends.

The patterns never backtrack: repetitions are possessive, and an unclosed string or comment extends to the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_PLAIN: Final = r"{0}[^{0}]*+(?:{0}{0}[^{0}]*+)*+(?:{0}|\Z)"
_ESCAPED: Final = r"{0}(?:[^{0}\\]|\\.|{0}{0}|\\\Z)*+(?:{0}|\Z)"
_STRING: Final = _PLAIN.format("'")
_NAME: Final = _PLAIN.format('"')
_BACKTICKS: Final = _PLAIN.format("`")

# PostgreSQL continues a string in the next line, by the rules of its first part.
_NEXT_LINE: Final = r"(?:[^\S\n]|--[^\n]*+)*+\n(?:\s|--[^\n]*+\n)*+"
_E_STRING: Final = rf"[eE]{_ESCAPED.format(chr(39))}(?:{_NEXT_LINE}{_ESCAPED.format(chr(39))})*+"

# A generated list: at least eight literals, or rows of them, each between two commas. No string in it has a backslash,
# so it reads the same in every mode. It says nothing about the statement, and may be a megabyte long.
_LITERAL: Final = r"(?:[-+]?+[\d.][\w.]*+|'[^'\\]*+(?:''[^'\\]*+)*+'|null\b|true\b|false\b)"
_ROW: Final = rf"\(\s*+{_LITERAL}\s*+(?:,\s*+{_LITERAL}\s*+)*+\)"
_LIST: Final = rf"(?:,\s*+(?:{_LITERAL}|{_ROW})\s*+(?=,)){{8,}}+"

# What binds look like, before and after SQLAlchemy has compiled them.
_BIND: Final = r"(?<![:\w\\]):\w++|%\(\w++\)s"
_MARK: Final = r":=|::|@@|[();=.@,]"


@dataclass(frozen=True, slots=True)
class Lexis:
    """The lexical rules of one kind of database.

    Attributes:
        token: matches the next token; its groups are ``skip`` (also a long list of literals), ``comment`` (its
            opening), ``quoted``, ``dollar`` (the opening of a string), ``code`` (the opening or closing of a comment
            that is executed), ``bind``, ``word``, ``mark`` and ``other``.
        nested_comments: whether a comment may contain another one.
        escapes_by_mode: quotes in which a backslash escapes or not, depending on the server's mode.
    """

    token: re.Pattern[str]
    nested_comments: bool = False
    escapes_by_mode: str = ""


def _lexis(
    quoted: str, skip: str, *, dollar: str = r"(?!)", code: str = r"(?!)", nested: bool = False, by_mode: str = ""
) -> Lexis:
    pattern = rf"""(?P<skip>\s++|{skip}|(?i:{_LIST}))
      | (?P<code>{code})
      | (?P<comment>/\*)
      | (?P<quoted>{quoted})
      | (?P<dollar>{dollar})
      | (?P<bind>{_BIND})
      | (?P<word>[^\W\d][\w$]*+)
      | (?P<mark>{_MARK})
      | (?P<other>.)"""
    return Lexis(re.compile(pattern, re.S | re.X), nested, by_mode)


_LINE_COMMENT: Final = r"--[^\n]*+"
_POSTGRESQL: Final = _lexis(
    rf"{_E_STRING}|{_STRING}|{_NAME}", _LINE_COMMENT, dollar=r"\$(?:[^\W\d]\w*+)?\$", nested=True, by_mode="'"
)
_SQLITE: Final = _lexis(rf"{_STRING}|{_NAME}|{_BACKTICKS}|\[[^\]]*+(?:\]|\Z)", _LINE_COMMENT)
# Two dashes need a blank after them: 1--1 is 2.
_MARIADB: Final = _lexis(
    rf"{_ESCAPED.format(chr(39))}|{_ESCAPED.format(chr(34))}|{_BACKTICKS}",
    r"--(?=[\x00-\x20\x7f]|\Z)[^\n]*+|\#[^\n]*+",
    code=r"/\*M?!\d*+|\*/",
    by_mode="'\"",
)

LEXES: Final[Mapping[str, Lexis]] = {
    "postgresql": _POSTGRESQL,
    "sqlite": _SQLITE,
    "mariadb": _MARIADB,
    "mysql": _MARIADB,
}

_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


def end_of_comment(sql: str, start: int, *, nested: bool) -> int:
    """Return where the comment that opens at *start* ends; the end of the text if it is never closed."""
    depth, place = 0, start
    while (edge := _COMMENT_EDGE.search(sql, place)) is not None:
        place = edge.end()
        if edge.group() == "*/":
            depth -= 1
        elif nested or depth == 0:
            depth += 1
        else:  # "/*/" in a comment: its end may be "*/"
            place = edge.start() + 1
        if depth == 0:
            return place
    return len(sql)
