"""Read a statement: which of its words are names, and which are, or may be, values.

A server's message is text, and whoever may write in the database can imitate it (RAISE, SIGNAL). So a name from a
message is shown only if the statement, which is shown anyway, contains it as a name.
Why: docs/decisions/0090-when-is-a-word-of-the-server-a-name.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from prefiq_db.lexis import LEXES, Lexis, end_of_comment

# A longer text is not parsed: a name in an error is not worth a second of processor time.
_LONGEST: Final = 100_000
_OPERATORS: Final = frozenset("=<>!+-*/%|~^&#")
_BEFORE_VALUE: Final = frozenset(
    {"between", "default", "else", "escape", "ilike", "is", "like", "limit", "offset", "regexp", "rlike", "then"}
)
_BEFORE_VALUES: Final = frozenset({"in", "value", "values"})
_BEFORE_ARGUMENTS: Final = frozenset({"call", "execute"})
# Words before a parenthesis that don't call a function.
_NO_FUNCTIONS: Final = frozenset(
    {"and", "conflict", "exists", "having", "not", "on", "or", "over", "using", "when", "where"}
)
_BEFORE_TABLE: Final = frozenset(
    {"exists", "from", "index", "into", "join", "only", "references", "table", "to", "trigger", "update", "view"}
)
_DDL: Final = frozenset({"alter", "comment", "create", "drop", "refresh", "reindex", "rename", "truncate"})
_DEFINED: Final = frozenset({"index", "sequence", "table", "view"})
_QUERIES: Final = frozenset({"delete", "select", "update"})
_EXPRESSIONS: Final = frozenset({"having", "select", "where"})
# A name that needs no quotes.
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_$]*")
_BEGINS_A_QUERY: Final = frozenset({"select", "with"})


@dataclass(slots=True)
class Written:
    """The words of one statement, in lower case.

    Attributes:
        names: words in the place of a name.
        doubtful: words in the place of a value, such as after ``=``: a quote may have been forgotten there.
        values: the contents of its literals.
        is_ddl: it defines things, and runs no query.
        defines: what it defines: ``table``, ``index``, ``view``; ``""`` if nothing, or something rarer.
    """

    names: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    is_ddl: bool = False
    defines: str = ""

    def says(self, name: str) -> bool:
        """Return whether the statement contains *name* as a name, and not as a value."""
        lowered = name.lower()
        return lowered in self.names and lowered not in self.values

    def quotes(self, name: str) -> bool:
        """Return whether *name* is one of the statement's values, or quoted inside one."""
        lowered = name.lower()
        quoted = (f"'{lowered}'", f'"{lowered}"')
        return any(lowered == value.strip() or quoted[0] in value or quoted[1] in value for value in self.values)

    def doubts(self, name: str) -> bool:
        """Return whether *name* appears only in the place of a value."""
        return name.lower() in self.doubtful - self.names


def read_statement(sql: str | None, params: object, dialect: str) -> Written | None:
    """Return the words of *sql*; ``None`` if there is no text, or it is too long to parse for an error message.

    Args:
        params: SQLAlchemy's parameters: one set, or a list of them.
    """
    lexis = LEXES.get(dialect)
    if not sql or lexis is None or len(sql) > _LONGEST:
        return None
    written = Written(values={value.lower() for value in texts_in(params)})
    reader = _Reader(written, dialect)
    pieces = [*_pieces(sql, lexis), ("", False)]
    for (text, is_quoted), (following, _) in pairwise(pieces):
        reader.read(text, following, is_quoted)
    reader.finish()
    words = [text.lower() for text, is_quoted in pieces if not is_quoted]
    written.is_ddl = words[0] in _DDL and not _BEGINS_A_QUERY.intersection(words)
    if words[0] in _DDL:
        written.defines = next((word for word in words if word in _DEFINED), "")
    return written


def texts_in(params: object) -> Iterator[str]:
    """Yield every text among the parameters, at any depth; bytes count as texts."""
    if isinstance(params, str):
        yield params
    elif isinstance(params, (bytes, bytearray)):
        yield params.decode(errors="replace")
    elif isinstance(params, (Mapping, list, tuple, set, frozenset)):
        for each in params.values() if isinstance(params, Mapping) else params:
            yield from texts_in(each)


def _pieces(sql: str, lexis: Lexis) -> Iterator[tuple[str, bool]]:
    """Yield each piece that isn't a comment, and whether it is quoted; ``?`` stands for a bind."""
    place, end = 0, len(sql)
    while place < end:
        found: Any = lexis.token.match(sql, place)
        kind, stop = found.lastgroup, found.end()
        if kind == "comment" or (kind == "code" and sql[place] == "/"):
            stop = end_of_comment(sql, place, nested=lexis.nested_comments)
        elif kind == "dollar":
            closing = sql.find(found.group(), stop)
            yield f"'{sql[stop : closing if closing >= 0 else end]}'", True
            stop = end if closing < 0 else closing + len(found.group())
        elif kind != "skip":
            yield "?" if kind == "bind" else found.group(), kind == "quoted"
        place = stop


@dataclass(frozen=True, slots=True)
class _Parenthesis:
    """The content of a parenthesis: values; a row of VALUES; the arguments of a function in a query."""

    for_values: bool = False
    is_row: bool = False
    is_call: bool = False


@dataclass(slots=True)
class _Scope:
    """The scope of one SELECT, or of none; in a SELECT without a table there can be no column.

    Attributes:
        depth: how many parentheses are open around it.
        words: words in the place of a name.
    """

    depth: int = 0
    has_tables: bool = False
    words: set[str] = field(default_factory=set)


class _Reader:
    """Reads the pieces in order and knows whether the next one is in the place of a value."""

    def __init__(self, written: Written, dialect: str) -> None:
        self.written = written
        self.dialect = dialect
        self.before = ""
        self.word_for_value = False  # the last word is in the place of a value
        self.between: str | None = None  # "between" until its AND, then "and" for one word
        self.closed_row = False  # the last parenthesis was a row of VALUES
        self.open: list[_Parenthesis] = []
        self.in_query = False
        self.in_expressions = False
        self.scopes = [_Scope(has_tables=True)]
        self.called: set[str] = set()
        self.takes_arguments = False  # after CALL and the like
        self.chain: list[str] = []  # the parts of a qualified name read so far
        self.doubtful_chains: list[list[str]] = []

    def read(self, text: str, following: str, is_quoted: bool) -> None:
        if is_quoted:
            self._quoted(text, following)
        elif text == "(":
            self.open.append(self._opened())
        elif is_word(text):
            self._word(text.lower(), following)
        if text != ",":
            self.closed_row = bool(text == ")" and self.open and self.open.pop().is_row)
            self._close_scopes(len(self.open))
        self.before = text.lower()

    def _opened(self) -> _Parenthesis:
        is_row = self.before in _BEFORE_VALUES or (self.before == "," and self.closed_row)
        of_a_word = is_word(self.before) and self.before not in _BEFORE_VALUE
        for_values = self.word_for_value if of_a_word else self._for_value()
        is_call = of_a_word and self.in_query and self.before not in _NO_FUNCTIONS
        return _Parenthesis(is_row or for_values or (self.takes_arguments and not self.open), is_row, is_call)

    def finish(self) -> None:
        """Judge the qualified names in the place of a value: they are names if the statement knows the first part."""
        self._close_scopes(-1)
        for chain in self.doubtful_chains:
            known = len(chain) > 1 and chain[0] in self.written.names
            (self.written.names if known else self.written.doubtful).update(chain)

    def _close_scopes(self, depth: int) -> None:
        while self.scopes and self.scopes[-1].depth > depth:
            scope = self.scopes.pop()
            self.written.names |= scope.words if scope.has_tables else scope.words & self.called
            if not scope.has_tables:
                self.written.doubtful |= scope.words - self.called

    def _note_scope(self, word: str) -> None:
        depth = len(self.open)
        if word == "select":
            if len(self.scopes) > 1:  # UNION begins another SELECT; the outermost scope belongs to none
                self._close_scopes(depth - 1)
            self.scopes = self.scopes or [_Scope(has_tables=True)]
            self.scopes.append(_Scope(depth))
        elif word in ("from", "join") and self.scopes[-1].depth == depth:
            self.scopes[-1].has_tables = True

    def _for_value(self) -> bool:
        if self.before in ("(", ","):
            return bool(self.open and self.open[-1].for_values)
        return (
            self.before in _BEFORE_VALUE
            or self.before in ("in", "values")
            or self.before[-1:] in _OPERATORS
            or self.between == "and"
        )

    def _word(self, word: str, following: str) -> None:
        if word in _BEGINS_A_QUERY and self.open:
            self.open[-1] = _Parenthesis()
        self.in_query = self.in_query or word in _QUERIES
        self.in_expressions = self.in_expressions or word in _EXPRESSIONS
        self._note_scope(word)
        self.takes_arguments = self.takes_arguments or (not self.before and word in _BEFORE_ARGUMENTS)
        self._named(word, following)
        if word == "between":
            self.between = "between"
        elif self.between == "and" or (self.between and word == "and"):
            self.between = "and" if word == "and" else None

    def _named(self, name: str, following: str) -> None:
        if self.before != ".":
            self.word_for_value = self._for_value()
            self.chain = []
            if self.word_for_value and following != "(":
                self.doubtful_chains.append(self.chain)
        self.chain.append(name)
        if not self.word_for_value or following == "(":
            self.scopes[-1].words.add(name)
        if following == "(":
            self.called.add(name)

    def _quoted(self, text: str, following: str) -> None:
        mark = "]" if text[0] == "[" else "'" if text[0] in "eE" else text[0]
        exact = text[text.index(text[0] if mark == "]" else mark) + 1 : -1].replace(mark * 2, mark)
        inside = exact.lower()
        if mark == "'" or (mark == '"' and self.dialect in ("mariadb", "mysql")):
            self.written.values.add(inside)
        elif mark == '"' and not self._is_a_name(following) and self._may_be_a_string(exact):
            self.written.doubtful.add(inside)
        else:
            self._named(inside, following)

    def _is_a_name(self, following: str) -> bool:
        """Return whether ``"x"`` is in a place where no string is possible."""
        return self.before == "." or following == "." or self.before in _BEFORE_TABLE

    def _may_be_a_string(self, exact: str) -> bool:
        """Return whether ``"x"`` may be a string, as MariaDB reads it, and SQLite if there is no column x."""
        needless = self.in_expressions and _PLAIN.fullmatch(exact) is not None
        return self.dialect == "sqlite" or needless or bool(self.open and self.open[-1].is_call)


def is_word(text: str) -> bool:
    return text[:1].isalpha() or text[:1] == "_"


_BEGINS_DDL: Final = re.compile(
    rf"(?:\s|--[^\n]*+\n|(?>/\*.*?\*/))*+(?:{'|'.join(sorted(_DDL))})\b", re.IGNORECASE | re.DOTALL
)


def may_define(sql: str | None) -> bool:
    """Return whether *sql* begins like a definition (DDL)."""
    return sql is not None and _BEGINS_DDL.match(sql) is not None


_LONG_NUMBER: Final = re.compile(r"(?<![\w.])\d{5,}(?!\w)")


def without_values(sentence: str, written: Written) -> str:
    """Return a server's *sentence* about a definition, with ``?`` for each value or possible value of the statement."""
    lowered = sentence.lower()
    hidden = [value for value in written.values | (written.doubtful - written.names) if value and value in lowered]
    for value in sorted(hidden, key=len, reverse=True):
        sentence = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "?", sentence, flags=re.IGNORECASE)
    return _LONG_NUMBER.sub("?", sentence)
