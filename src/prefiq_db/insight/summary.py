"""Describe a statement briefly, without a parser: operations, tables, and a fingerprint that groups similar texts.

A summary has low cardinality and no value in it, so it may be a metric's label and a span's name. Its form is that of
OpenTelemetry's ``db.query.summary``: ``SELECT orders customers``, ``INSERT audit SELECT orders``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Delete, Insert, Select, TableClause, TextClause, TString, Update
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql import visitors
from sqlalchemy.sql.selectable import CompoundSelect, TextualSelect

from prefiq_db.masking import LONGEST_SHOWN, head_of, mask_for_tables, mask_literals
from prefiq_db.products import dialects

# OpenTelemetry's semantic conventions: "The value of db.query.summary SHOULD be truncated to 255 characters".
_LONGEST: Final = 255
_NAMES_IN_BRACKETS: Final = dialects(where=lambda product: "[" in product.name_quotes)


@dataclass(frozen=True, slots=True)
class Description:
    """The description of a statement.

    Attributes:
        summary: operations and tables: ``SELECT orders``.
        operation: the first of the operations: ``SELECT``; ``""`` if the text has none that we know.
        tables: the tables, each once, in order.
        fingerprint: 16 hex digits, the same for texts that differ only in literals, bind names and lengths of lists.
    """

    summary: str
    operation: str
    tables: tuple[str, ...]
    fingerprint: str


_EXPANDED: Final = re.compile(r"__\[POSTCOMPILE_\S+?(?:~~.+?~~)?\]")  # SQLAlchemy's own pattern


def collapse_lists(compiled: Any, marks: str) -> str:
    """Return *compiled*'s text with *marks* for the binds of each list: the same text for every length.

    SQLAlchemy writes an expanding bind into it, and makes the statement of it that is sent.
    """
    return _EXPANDED.sub(marks, compiled.string)


def describe(statement: str, compiled: Any, dialect: str = "") -> Description:
    """Return the description of *statement*; *compiled* is SQLAlchemy's, or ``None`` for a driver's text.

    Only the beginning of a long text is read, the part that may be shown.
    """
    statement = head_of(statement)
    construct = None if compiled is None else compiled.statement
    is_text = construct is None or isinstance(construct, (TextClause, TString, TextualSelect))
    words = list(_of_text(statement, dialect) if is_text else _of_core(construct))
    operations = [word for word, is_operation in words if is_operation]
    tables = tuple(dict.fromkeys(word for word, is_operation in words if not is_operation))
    return Description(_joined(words), operations[0] if operations else "", tables, fingerprint(statement, dialect))


def _joined(words: list[tuple[str, bool]]) -> str:
    """Join the words, each table once per operation, up to the maximum length."""
    seen: set[str] = set()
    chosen: list[str] = []
    length = 0
    for word, is_operation in words:
        if is_operation:
            seen = set()
        elif word in seen:
            continue
        else:
            seen.add(word)
        length += len(word) + bool(chosen)
        if length > _LONGEST:
            break
        chosen.append(word)
    return " ".join(chosen)


# --- Core constructs know their tables ------------------------------------------------------------

_OPERATIONS: Final[tuple[tuple[type, str], ...]] = (
    (Insert, "INSERT"),
    (Update, "UPDATE"),
    (Delete, "DELETE"),
    (Select, "SELECT"),
)


def _of_core(construct: Any) -> Iterator[tuple[str, bool]]:
    if isinstance(construct, ExecutableDDLElement):
        yield construct.__visit_name__.upper().replace("_", " "), True
        name = getattr(getattr(construct, "element", None), "name", None)
        if name:
            yield str(name), False
        return
    if isinstance(construct, CompoundSelect):
        yield "SELECT", True
    for element in visitors.iterate(construct):
        operation = next((name for kind, name in _OPERATIONS if isinstance(element, kind)), None)
        if operation is not None and not (operation == "SELECT" and isinstance(construct, CompoundSelect)):
            yield operation, True
        if isinstance(element, TableClause):
            yield str(element.name), False


# --- texts get a small tokenizer ------------------------------------------------------------------

# Literals and comments are already replaced: each is a ``?``.
_PART: Final = r"""[^\W\d][\w$]*|"(?:[^"]|"")*"|`(?:[^`]|``)*`"""


def _token(part: str) -> re.Pattern[str]:
    return re.compile(
        rf"""(?P<skip>\s+|\?|[:%$@][\w()]*|"(?:[^"]|"")*\Z|`(?:[^`]|``)*\Z)
          | (?P<name>(?:{part})(?:\s*\.\s*(?:{part}))*)
          | (?P<comma>,)
          | (?P<other>.)""",
        re.S | re.X,
    )


_TOKEN: Final = _token(_PART)
_TOKEN_WITH_BRACKETS: Final = _token(rf"{_PART}|\[[^\]]*(?:\]|\Z)")
_VERBS: Final = frozenset(
    """SELECT INSERT UPDATE DELETE MERGE REPLACE CREATE ALTER DROP TRUNCATE CALL EXPLAIN VACUUM COPY LOAD REFRESH
    REINDEX""".split()  # noqa: SIM905 - a block of words reads better
)
# Operations only at the beginning of a statement; elsewhere they are clauses.
_FIRST_ONLY: Final = frozenset({"SET", "SHOW", "PRAGMA", "GRANT", "REVOKE", "ANALYZE", "EXECUTE"})
_BEFORE_TABLE: Final = frozenset({"FROM", "INTO", "JOIN", "TABLE", "UPDATE", "CALL", "TRUNCATE"})
_BETWEEN: Final = frozenset({"IF", "NOT", "EXISTS", "ONLY", "LATERAL", "IGNORE", "LOW_PRIORITY", "TABLE"})
# Words after which UPDATE is no operation: FOR UPDATE, ON UPDATE, DO UPDATE, ON DUPLICATE KEY UPDATE.
_NO_OPERATION_AFTER: Final = frozenset({"FOR", "ON", "DO", "KEY"})
# Functions with a FROM inside: EXTRACT(YEAR FROM x).
_WITH_FROM: Final = frozenset({"EXTRACT", "TRIM", "SUBSTRING", "OVERLAY"})
_CLAUSES: Final = frozenset(
    """WHERE ON USING SET VALUES GROUP ORDER HAVING LIMIT OFFSET FETCH UNION EXCEPT INTERSECT RETURNING INNER LEFT RIGHT
    FULL CROSS NATURAL WINDOW FOR DEFAULT""".split()  # noqa: SIM905 - likewise
)
_LISTED: Final = "(listed)"


class _TextReader:
    """Reads the names and marks of a text in order."""

    def __init__(self) -> None:
        self.before = ""
        self.expecting = False
        self.own_from: list[bool] = []  # for each open parenthesis: whether its FROM is a function's
        self.begun = False
        self.operation = ""

    def mark(self, mark: str) -> None:
        """Handle a mark: a comma continues a list of tables; a parenthesis opens something else."""
        if mark == "(":
            self.own_from.append(self.before in _WITH_FROM)
        elif mark == ")" and self.own_from:
            self.own_from.pop()
        self.expecting = mark == "," and self.before == _LISTED
        self.before = _LISTED if self.expecting else ""

    def name(self, word: str) -> tuple[str, bool] | None:
        """Return an operation or a table, or ``None`` for any other name."""
        upper = word.upper()
        first, self.begun = not self.begun, True
        if self.expecting and upper in _BETWEEN:
            return None
        if self.expecting and upper not in _VERBS:
            self.expecting, self.before = False, _LISTED
            return _bare(word), False
        is_operation = (upper in _VERBS and self.before not in _NO_OPERATION_AFTER) or (first and upper in _FIRST_ONLY)
        if is_operation:
            self.operation = upper
        self.expecting = upper in _BEFORE_TABLE and self.before not in _NO_OPERATION_AFTER and not self.elsewhere(upper)
        # An alias doesn't end the list; a clause does.
        stays = self.before == _LISTED and upper not in _CLAUSES and upper not in _BEFORE_TABLE
        self.before = _LISTED if stays else upper
        return (upper, True) if is_operation else None

    def elsewhere(self, upper: str) -> bool:
        """Return whether no table follows: EXTRACT(... FROM x), IS DISTINCT FROM x, VACUUM INTO file."""
        if upper == "FROM":
            return self.before == "DISTINCT" or bool(self.own_from and self.own_from[-1])
        return upper == "INTO" and self.operation == "VACUUM"


def _of_text(statement: str, dialect: str) -> Iterator[tuple[str, bool]]:
    reader = _TextReader()
    token = _TOKEN_WITH_BRACKETS if dialect in _NAMES_IN_BRACKETS else _TOKEN
    for match in token.finditer(mask_for_tables(statement, dialect)):
        kind = match.lastgroup
        if kind == "name":
            found = reader.name(match.group())
            if found is not None:
                yield found
        elif kind in ("comma", "other"):
            reader.mark(match.group())


_PARTS: Final = re.compile(rf"{_PART}|\[[^\]]*\]?")


def _bare(name: str) -> str:
    """Return the last part of a qualified name, without its quotes."""
    parts = _PARTS.findall(name)
    return (parts[-1] if parts else name).strip('"`[]')


# --- fingerprints ---------------------------------------------------------------------------------

_BINDS: Final = re.compile(r"%\(\w+\)s|%s|(?<!:):\w+|\$\d+|\?")
_SPACE: Final = re.compile(r"\s+")
# SQLAlchemy adds the type of each value for PostgreSQL: ?::VARCHAR, ?::TIMESTAMP WITH TIME ZONE, ?::"my type"[].
_CAST: Final = (
    r"::(?:\"[^\"]*\"|[\w.])+(?: varying| precision)?(?: ?\([ ?,]*\))?(?: with(?:out)? time zone)?(?:\[\??\])*"
)
_LIST: Final = re.compile(rf"\(\s*\?(?:{_CAST})?(?:\s*,\s*\?(?:{_CAST})?)*\s*\)", re.I)
_ROWS: Final = re.compile(r"\(\?\)(?:\s*,\s*\(\?\))+")


def fingerprint(statement: str, dialect: str = "") -> str:
    """Return 16 hex digits for the shape of *statement*: literals, bind names and lengths of lists don't count.

    For a long text, only its beginning counts, without the list in which it was cut off.
    """
    shape = _BINDS.sub("?", mask_literals(head_of(statement), dialect))
    shape = _LIST.sub("(?)", _SPACE.sub(" ", shape).strip())
    shape = _ROWS.sub("(?)", shape)
    if len(statement) > LONGEST_SHOWN:
        shape = shape.rstrip(" ?,(")
    return hashlib.blake2b(shape.encode(), digest_size=8).hexdigest()
